"""Requests of one row, read from their bytes. Pure.

A message makes an object of each part of a tensor that is looked at, five or six for a single value, and a table has
dozens of columns. The bytes of a tensor with one value all begin alike, so that the value can be cut out of them. What
is written in another way is left to those who read messages, and find what is wrong with them.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_ml.serving.protos.messages import PredictInputs, TensorProto
from airflow_ml.serving.protos.tensors import STRING, little_endian, numpy_type
from airflow_ml.serving.saved_model import Signature

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_CONTENT, _TEXT = b"\x22", b"\x42"
"""Tags of ``tensor_content`` and ``string_val``."""

_SHORT = 0x80
"""Lengths below are one byte."""


class Sent(NamedTuple):
    """A request, and the bytes that it came as."""

    message: Any
    content: bytes


class RowReader:
    """Reads requests of one signature.

    Args:
        signature: Says which inputs there must be.
    """

    def __init__(self, signature: Signature) -> None:
        self._count = len(signature.inputs)
        names: defaultdict[int, list[str]] = defaultdict(list)
        for name, info in signature.inputs.items():
            names[info.data_type].append(name)
        self._readable = bool(names) and all(numpy_type(data_type) for data_type in names)
        self._texts = names.pop(STRING, [])
        self._numbers = [
            (_head(data_type) + _CONTENT + bytes([dtype.itemsize]), dtype, columns)
            for data_type, columns in (names.items() if self._readable else ())
            for dtype in [little_endian(data_type)]
        ]

    def read(self, contents: Sequence[bytes]) -> dict[str, Array] | None:
        """The inputs of ``PredictRequest`` of one row each, below each other; ``None`` if one is not such a request.

        Args:
            contents: Bytes that were read as a ``PredictRequest`` without complaint.
        """
        if not self._readable:
            return None
        rows = [dict(PredictInputs.FromString(content).inputs) for content in contents]
        if any(len(row) != self._count for row in rows):
            return None
        try:
            return self._arrays(rows)
        except KeyError:
            return None

    def _arrays(self, rows: Sequence[dict[str, bytes]]) -> dict[str, Array] | None:
        import numpy as np

        arrays: dict[str, Array] = {}
        for head, dtype, names in self._numbers:
            start = len(head)
            content = b"".join([t[start:] for name in names for row in rows if (t := row[name])[:start] == head])
            # No value is shorter than the head says, so none makes up for another one that has more behind it.
            if len(content) != len(names) * len(rows) * dtype.itemsize:
                return None
            arrays.update(zip(names, np.frombuffer(content, dtype).reshape(len(names), len(rows)), strict=True))
        start = len(_TEXT_HEAD) + 1
        for name in self._texts:
            texts = [t[start:] for row in rows if _is_text(t := row[name])]
            if len(texts) != len(rows):
                return None
            arrays[name] = np.empty(len(rows), dtype=object)
            arrays[name][:] = texts
        return arrays


def _is_text(tensor: bytes) -> bool:
    """Whether there is one text, and nothing behind it."""
    start = len(_TEXT_HEAD)
    return tensor.startswith(_TEXT_HEAD) and len(tensor) > start and tensor[start] == len(tensor) - start - 1 < _SHORT


def _head(data_type: int) -> bytes:
    """How a tensor of one value begins."""
    return bytes(TensorProto(dtype=data_type, tensor_shape={"dim": [{"size": 1}]}).SerializeToString())


_TEXT_HEAD = _head(STRING) + _TEXT
