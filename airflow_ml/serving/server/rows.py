"""Requests of one row, read from their bytes and put below each other. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_ml.serving.protos.single import number_head, tensors_of, texts_of
from airflow_ml.serving.protos.tensors import STRING, little_endian, numpy_type
from airflow_ml.serving.saved_model import Signature

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


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
            (number_head(data_type), little_endian(data_type), columns)
            for data_type, columns in (names.items() if self._readable else ())
        ]

    def read(self, contents: Sequence[bytes]) -> dict[str, Array] | None:
        """The inputs of ``PredictRequest`` of one row each, below each other; ``None`` if one is not such a request.

        Args:
            contents: Bytes that were read as a ``PredictRequest`` without complaint.
        """
        if not self._readable:
            return None
        rows = [tensors_of(content) for content in contents]
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
        for name in self._texts:
            texts = texts_of(row[name] for row in rows)
            if len(texts) != len(rows):
                return None
            arrays[name] = np.empty(len(rows), dtype=object)
            arrays[name][:] = texts
        return arrays
