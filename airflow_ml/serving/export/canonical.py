"""Equal models, equal bytes: take out of a SavedModel what depends on the process that wrote it.

TensorFlow numbers its functions through the life of a process, and puts a random id into ``fingerprint.pb`` for its own
telemetry. With numbers that count from 0 and an id that follows from the content, an export that is repeated gives the
same folder, and a hash of the folder names the model.

Source: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/protobuf/saved_model.proto
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

from airflow_ml.serving.files import tree_sha256

_NUMBERED = re.compile(r"(__\w+_)(\d+)")


def rewrite(saved_model: Path) -> None:
    """Make ``saved_model`` (a folder that nobody reads yet) a function of its content."""
    from tensorflow.core.protobuf import fingerprint_pb2, saved_model_pb2

    graph_path, id_path = saved_model / "saved_model.pb", saved_model / "fingerprint.pb"
    message = saved_model_pb2.SavedModel.FromString(graph_path.read_bytes())
    for meta_graph in message.meta_graphs:
        _renumber(meta_graph)
    graph_path.write_bytes(message.SerializeToString(deterministic=True))
    if id_path.exists():
        fingerprint = fingerprint_pb2.FingerprintDef.FromString(id_path.read_bytes())
        id_path.unlink()
        identity = uuid.uuid5(uuid.NAMESPACE_OID, tree_sha256(saved_model))
        # the checksums are TensorFlow's own, over what we have rewritten; nothing verifies them
        fingerprint.saved_model_checksum = identity.int & (2**64 - 1)
        fingerprint.graph_def_program_hash = fingerprint.saved_object_graph_hash = fingerprint.saved_model_checksum
        fingerprint.uuid = str(identity)
        id_path.write_bytes(fingerprint.SerializeToString(deterministic=True))


def _renumber(meta_graph: Any) -> None:
    library = meta_graph.graph_def.library
    matches = [_NUMBERED.fullmatch(function.signature.name) for function in library.function]
    numbered = sorted((m for m in matches if m), key=lambda match: int(match[2]))
    names = {match[0]: f"{match[1]}{place}" for place, match in enumerate(numbered)}
    _rename(meta_graph, names)
    for function in library.function:
        for arguments in function.arg_attr.values():  # where nobody specified a name, TensorFlow made up a number
            if arguments.attr["_user_specified_name"].s.isdigit() or not arguments.attr["_user_specified_name"].s:
                del arguments.attr["_user_specified_name"]
    ordered = sorted(library.function, key=lambda function: str(function.signature.name))
    del library.function[:]
    library.function.extend(ordered)


def _rename(message: Any, names: dict[str, str]) -> None:
    """Replace every string of a message that is one of ``names``, at any depth."""
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _rename_map(field, value, names)
        elif field.message_type is not None:
            for item in value if field.is_repeated else (value,):
                _rename(item, names)
        elif field.type == field.TYPE_STRING and field.is_repeated:
            value[:] = [names.get(text, text) for text in value]
        elif field.type == field.TYPE_STRING and value in names:
            setattr(message, field.name, names[value])


def _rename_map(field: Any, entries: Any, names: dict[str, str]) -> None:
    if field.message_type.fields_by_name["value"].message_type is None:
        for key in list(entries):
            if isinstance(entries[key], str):
                entries[key] = names.get(entries[key], entries[key])
    else:
        for key in list(entries):
            _rename(entries[key], names)
    for key in [key for key in entries if key in names]:
        value = entries[key]
        if field.message_type.fields_by_name["value"].message_type is None:
            entries[names[key]] = value
        else:
            entries[names[key]].CopyFrom(value)
        del entries[key]
