"""numpy arrays ↔ ``TensorProto``.

Numbers travel as one block of little-endian bytes (``tensor_content``), strings one by one. A reply of the real server
carries its numbers in typed fields (``float_val`` …) instead, where one value may stand for all: both forms are read.
How much a value may stand for is bounded, or forty bytes would fill the memory.

Source: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/framework/tensor.proto
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

from airflow_ml.serving.protos.messages import DATA_TYPES, TensorProto

if TYPE_CHECKING:
    import numpy as np

STRING = DATA_TYPES["DT_STRING"]

#: TensorFlow's name, numpy's name, the typed field.
_TYPES = (
    ("DT_FLOAT", "float32", "float_val"),
    ("DT_DOUBLE", "float64", "double_val"),
    ("DT_INT32", "int32", "int_val"),
    ("DT_INT16", "int16", "int_val"),
    ("DT_UINT16", "uint16", "int_val"),
    ("DT_INT8", "int8", "int_val"),
    ("DT_UINT8", "uint8", "int_val"),
    ("DT_INT64", "int64", "int64_val"),
    ("DT_BOOL", "bool", "bool_val"),
    ("DT_UINT32", "uint32", "uint32_val"),
    ("DT_UINT64", "uint64", "uint64_val"),
    ("DT_HALF", "float16", "half_val"),
    ("DT_BFLOAT16", "bfloat16", "half_val"),
    ("DT_COMPLEX64", "complex64", "scomplex_val"),
    ("DT_COMPLEX128", "complex128", "dcomplex_val"),
)
_NUMPY_OF = {DATA_TYPES[tf]: numpy_name for tf, numpy_name, _ in _TYPES}
_FIELD_OF = {DATA_TYPES[tf]: field for tf, _, field in _TYPES}
_NUMBER_OF = {numpy_name: DATA_TYPES[tf] for tf, numpy_name, _ in _TYPES}
_NAME_OF = {number: name for name, number in DATA_TYPES.items()}

#: Types of which the typed field does not hold the values but their bits, or their parts one after the other: as what.
_PARTS_OF = {
    DATA_TYPES["DT_HALF"]: "uint16",
    DATA_TYPES["DT_BFLOAT16"]: "uint16",
    DATA_TYPES["DT_COMPLEX64"]: "float32",
    DATA_TYPES["DT_COMPLEX128"]: "float64",
}

#: What a tensor may come to whose last value stands for the rest, in bytes.
MOST_BYTES = 64 * 2**20

#: What TensorFlow needs for an empty string, in bytes.
_STRING_BYTES = 24

#: Values that are made Python objects at once: meanwhile no other thread runs.
_AT_ONCE = 65_536


class StandsForMore(ValueError):
    """A tensor whose last value stands for more than the caller wants to have made at once."""


def type_name(data_type: int) -> str:
    """``float32``, ``int64``, ``string`` …: the name of a ``DataType`` number as users write it."""
    return "string" if data_type == STRING else _NUMPY_OF.get(data_type, _NAME_OF.get(data_type, str(data_type)))


def tensorflow_name(data_type: int) -> str:
    """``float``, ``int64``, ``string`` …: a ``DataType`` number as TensorFlow's messages write it."""
    return _NAME_OF.get(data_type, str(data_type)).removeprefix("DT_").lower()


def numpy_type(data_type: int) -> str | None:
    """The numpy dtype of a ``DataType`` number; ``object`` for strings, ``None`` for what we do not carry."""
    return "object" if data_type == STRING else _NUMPY_OF.get(data_type)


def number_of(numpy_type: Any) -> int:
    """The ``DataType`` number of what numpy takes for a type; of strings for what is no number.

    Raises:
        TypeError: it has none.
    """
    import numpy as np

    dtype = np.dtype(numpy_type)
    number = STRING if dtype.kind in "OUS" else _number_of(dtype)
    if number is None:
        raise TypeError(f"{dtype} has no counterpart in TensorFlow")
    return number


def to_proto(array: np.ndarray[Any, Any]) -> Any:
    """``array`` as a ``TensorProto``; see `fill`."""
    proto = TensorProto()
    fill(array, proto)
    return proto


def fill(array: np.ndarray[Any, Any], proto: Any) -> None:
    """Fill an empty ``proto`` with ``array``. Objects and strings become ``DT_STRING``, ``None`` the empty string.

    Raises:
        TypeError: the dtype has no counterpart.
    """
    number = _begun(array, proto)
    if number != STRING:
        proto.tensor_content = array.astype(little_endian(number), copy=False).tobytes()


def _begun(array: np.ndarray[Any, Any], proto: Any) -> int:
    """Give an empty ``proto`` the shape, the type, which is returned, and what is text."""
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if array.dtype.kind in "OUS":
        proto.dtype = STRING
        proto.string_val.extend(_as_bytes(value) for value in array.ravel().tolist())
        return STRING
    number = _number_of(array.dtype)
    if number is None:
        raise TypeError(f"an array of {array.dtype} cannot be sent; cast it to float32, int64 or strings")
    proto.dtype = number
    return number


def to_field_proto(array: np.ndarray[Any, Any], proto: Any) -> None:
    """Fill ``proto`` with ``array`` in typed fields (``float_val`` …), as the real server answers.

    Raises:
        TypeError: the dtype has no counterpart.
    """
    number = _begun(array, proto)
    if number == STRING:
        return
    values, field = array.ravel(), getattr(proto, _FIELD_OF[number])
    if number in _PARTS_OF:
        values = values.view(_PARTS_OF[number])
    if values.size <= _AT_ONCE:
        field.extend(values.tolist())
        return
    for start in range(0, values.size, _AT_ONCE):
        field.extend(values[start : start + _AT_ONCE].tolist())


def to_numpy(proto: Any, most: int = MOST_BYTES) -> np.ndarray[Any, Any]:
    """A ``TensorProto`` as an array of its shape; strings as an array of ``bytes`` objects.

    Args:
        proto: The message.
        most: What may be made of a value that stands for the rest, in bytes.

    Raises:
        ValueError: the content does not fill the shape, stands for more than `MOST_BYTES`, or is of a type that we do
            not carry.
        StandsForMore: it stands for more than `most`.
    """
    import numpy as np

    number = proto.dtype
    if number == STRING:
        strings = list(proto.string_val)
        values = np.empty(len(strings), dtype=object)
        values[:] = strings
    elif number not in _NUMPY_OF:
        raise ValueError(f"tensor of type {type_name(number)} is not supported")
    elif content := proto.tensor_content:
        values = np.frombuffer(content, little_endian(number))
    elif number in _PARTS_OF:
        values = np.array(getattr(proto, _FIELD_OF[number]), dtype=_PARTS_OF[number]).view(little_endian(number))
    else:
        values = np.array(getattr(proto, _FIELD_OF[number]), dtype=_NUMPY_OF[number])
    dims = proto.tensor_shape.dim
    if len(dims) == 1 and dims[0].size == len(values):  # by far the most, and each look at a message costs
        return values
    shape = [dim.size for dim in dims]
    count = math.prod(shape)
    if 0 < len(values) < count:  # trailing equal values are left out: the last one given stands for the rest
        values = _repeated(values, count, most)
    if len(values) != count:
        raise ValueError(f"tensor of shape {shape} needs {count} values, got {len(values)}")
    return values.reshape(shape)


def _repeated(values: np.ndarray[Any, Any], count: int, most: int) -> np.ndarray[Any, Any]:
    import numpy as np

    each = values.itemsize if values.dtype != object else _STRING_BYTES + len(values[-1])
    if count * each > MOST_BYTES:
        raise ValueError(f"a tensor of {len(values)} values stands for {count} values of {each} bytes")
    if count * each > most:
        raise StandsForMore(f"a tensor of {len(values)} values stands for {count} values of {each} bytes")
    full = np.full(count, values[-1], dtype=values.dtype)  # lets other threads run, which `repeat` does not
    full[: len(values)] = values
    return full


@cache
def _number_of(dtype: np.dtype[Any]) -> int | None:
    """The ``DataType`` number of a numpy dtype, of which numpy works out the name anew each time it is asked."""
    return _NUMBER_OF.get(dtype.name)


@cache
def little_endian(data_type: int) -> np.dtype[Any]:
    """The numpy dtype of a number's bytes in ``tensor_content``."""
    import numpy as np

    if _NUMPY_OF[data_type] == "bfloat16":  # numpy's own types are without it
        from ml_dtypes import bfloat16

        bits: np.dtype[Any] = np.dtype(bfloat16)
        return bits
    return np.dtype(_NUMPY_OF[data_type]).newbyteorder("<")


def as_text_list(array: np.ndarray[Any, Any]) -> list[str]:
    """The strings of an array [n] as they are sent; what is missing as the empty string."""
    return [_as_bytes(value).decode() for value in array.tolist()]


def _as_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if value is None or value != value:  # NaN is how pandas and Parquet readers write a missing string
        return b""
    return str(value).encode()
