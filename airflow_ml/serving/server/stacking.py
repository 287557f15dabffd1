"""Many requests as one, and its outputs as theirs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml.serving.protos.tensors import STRING, little_endian, numpy_type
from airflow_ml.serving.saved_model import Signature

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: Rows in one call; TF Serving's default.
MAX_ROWS = 1000


def stacked(signature: Signature, requests: Sequence[Any]) -> tuple[dict[str, Array], list[int]] | None:
    """The inputs of many requests as one, and how many rows each has; ``None`` if they do not fit together.

    Numbers are put together as bytes: that is all that it costs.
    """
    import numpy as np

    maps = [request.inputs for request in requests]
    wanted = len(signature.inputs)
    if any(len(inputs) != wanted for inputs in maps):
        return None
    rows: list[int] | None = None
    arrays: dict[str, Array] = {}
    for name, info in signature.inputs.items():
        if numpy_type(info.data_type) is None:
            return None
        text = info.data_type == STRING
        sizes: list[int] = []
        contents: list[Any] = []
        for inputs in maps:  # each look at a message costs: one pass over them
            proto = inputs.get(name)
            if proto is None or proto.dtype != info.data_type:
                return None
            dims = proto.tensor_shape.dim
            if len(dims) != 1:
                return None
            sizes.append(dims[0].size)
            contents.append(proto.string_val if text else proto.tensor_content)
        rows = rows or sizes
        if sizes != rows:
            return None
        width = 1 if text else little_endian(info.data_type).itemsize
        if [len(content) for content in contents] != [size * width for size in sizes]:
            return None
        if text:
            arrays[name] = np.empty(sum(sizes), dtype=object)
            arrays[name][:] = [value for content in contents for value in content]
        else:
            arrays[name] = np.frombuffer(b"".join(contents), little_endian(info.data_type))
    return None if rows is None or sum(rows) > MAX_ROWS else (arrays, rows)


def split(outputs: Mapping[str, Array], rows: Sequence[int]) -> list[dict[str, Array]] | None:
    """Outputs of one call as those of each request; ``None`` if they are not row by row."""
    total = sum(rows)
    if any(not array.ndim or array.shape[0] != total for array in outputs.values()):
        return None
    parts, start = [], 0
    for count in rows:
        parts.append({name: array[start : start + count] for name, array in outputs.items()})
        start += count
    return parts
