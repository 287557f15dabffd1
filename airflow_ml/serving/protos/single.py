"""Tensors of one value, as bytes.

A message makes an object of each part of a tensor that is looked at, five or six for a single value, and a table has
dozens of columns. The bytes of a tensor [1] all begin alike, so that the value can be cut out of them. What is written
in another way is left to those who read messages, and find what is wrong with them.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from airflow_ml.serving.protos.messages import DATA_TYPES, PredictInputs, TensorProto
from airflow_ml.serving.protos.tensors import STRING, little_endian, numpy_type

_CONTENT, _TEXT = b"\x22", b"\x42"
"""Tags of ``tensor_content`` and ``string_val``."""

_FORMATS = {
    "f4": "f", "f8": "d", "b1": "?",
    "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
}  # fmt: skip
"""numpy's codes of numbers as ``struct`` has them; numpy's own characters are those of the machine."""

_SHORT = 0x80
"""Lengths below are one byte."""


def tensors_of(content: bytes) -> dict[str, bytes]:
    """The inputs of a ``PredictRequest``, each as the bytes of its tensor.

    Args:
        content: Bytes that were read as a ``PredictRequest`` without complaint.
    """
    return dict(PredictInputs.FromString(content).inputs)


def texts_of(tensors: Iterable[bytes]) -> list[bytes]:
    """The texts of those tensors that are [1] of strings; the others are left out."""
    start = len(_TEXT_HEAD)
    return [
        tensor[start + 1 :]
        for tensor in tensors
        if tensor.startswith(_TEXT_HEAD)
        and len(tensor) > start
        and tensor[start] == len(tensor) - start - 1 < _SHORT  # and nothing behind it
    ]


def values_of(tensors: Mapping[str, bytes]) -> dict[str, Any] | None:
    """The value of each tensor, as Python has it, text as bytes; ``None`` if one has not one, or there is none."""
    layouts, found = _layouts(), dict[str, Any]()
    for name, tensor in tensors.items():
        layout = layouts.get(tensor[:_NUMBER_HEAD])
        if layout is not None:
            try:
                (found[name],) = struct.unpack(layout, tensor)
            except struct.error:  # there is more behind it
                return None
        elif text := texts_of((tensor,)):
            found[name] = text[0]
        else:
            return None
    return found or None


def number_head(data_type: int) -> bytes:
    """How a tensor [1] of numbers begins, up to the value."""
    return _head(data_type) + _CONTENT + bytes([little_endian(data_type).itemsize])


def _head(data_type: int) -> bytes:
    return bytes(TensorProto(dtype=data_type, tensor_shape={"dim": [{"size": 1}]}).SerializeToString())


_TEXT_HEAD = _head(STRING) + _TEXT
_NUMBER_HEAD = len(_TEXT_HEAD) + 1


@cache
def _layouts() -> dict[bytes, str]:
    """How a tensor begins → its form for ``struct``, which knows no complex numbers and not all halves."""
    numbers = [number for number in DATA_TYPES.values() if numpy_type(number) and number != STRING]
    codes = {number: _FORMATS.get(little_endian(number).str[1:]) for number in numbers}
    return {number_head(number): f"<{_NUMBER_HEAD}x{code}" for number, code in codes.items() if code}
