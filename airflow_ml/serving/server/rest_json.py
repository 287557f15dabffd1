"""JSON → tensors, in TF Serving's two formats: a list of rows (``instances``) or named columns (``inputs``).

Messages about what does not fit are TF Serving's, up to a cut through long values.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_ml.serving.protos.tensors import STRING, numpy_type, tensorflow_name
from airflow_ml.serving.saved_model import TensorInfo
from airflow_ml.serving.server import json_text
from airflow_ml.serving.server.status import Code, StatusError, invalid

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: numpy's name → TensorFlow's, bits of a whole number, the largest number.
_DECIMALS = {"float32": ("float", 24, 3.4028234663852886e38), "float64": ("double", 53, math.inf)}

#: What JSON has a form for in TF Serving.
_KINDS = {"object", "bool", "int8", "uint8", "int16", "int32", "uint32", "int64", "uint64", *_DECIMALS}


def parse(body: bytes) -> dict[str, Any]:
    """The request's JSON object; NaN and Infinity are allowed, as in TF Serving.

    Raises:
        StatusError: it is not JSON, or not an object.
    """
    document = json_text.load(body)
    if not isinstance(document, dict):
        raise wrong(document, "Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise wrong(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return document


def to_arrays(document: Mapping[str, Any], infos: Mapping[str, TensorInfo]) -> tuple[dict[str, Array], bool]:
    """The inputs of a predict request.

    Returns:
        Input name → array, and whether the request is in row format.

    Raises:
        StatusError: neither or both formats, unknown or missing inputs, values of another type, ragged lists.
    """
    if "instances" in document and "inputs" in document:
        raise wrong(document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ")
    if "instances" in document:
        if not isinstance(document["instances"], list):
            raise wrong(document, "Excepting 'instances' to be an list/array")
        if not document["instances"]:
            raise wrong(document, "No values in 'instances' array")
        return _from_rows(document["instances"], infos), True
    if "inputs" in document:
        return _from_columns(document["inputs"], infos), False
    raise invalid("Missing 'inputs' or 'instances' key")


def _from_rows(rows: list[Any], infos: Mapping[str, TensorInfo]) -> dict[str, Array]:
    named = _is_object(rows[0])
    if not named and not is_base64(rows[0]) and len(infos) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required "
            "as per tensorinfo_map"
        )
    for place, row in enumerate(rows):
        if named and not _is_object(row):
            raise invalid(f"Expecting object but got list at item {place} of input list")
        if not named and _is_object(row):
            raise invalid(f"Expecting value/list but got object at item {place} of input list")
    if not named:
        info = next(iter(infos.values()))
        return {info.name: _stacked(rows, info, "")}
    for place, row in enumerate(rows):
        if row.keys() != infos.keys():
            for name in row:
                if name not in infos:
                    raise _in_element(place, name, invalid(f"JSON object: does not have named input: {name}"))
            raise invalid(
                f"Failed to process element: {place} of 'instances' list. JSON object: {_shown(row)} "
                f"keys must be equal to: {','.join(sorted(infos))}"
            )
    return {name: _stacked([row[name] for row in rows], info, name) for name, info in infos.items()}


def _stacked(values: list[Any], info: TensorInfo, key: str) -> Array:
    """One tensor of all rows. What does not fit is looked for only then, and named with its row."""
    try:
        return _tensor(values, info)
    except StatusError:
        first: Array | None = None
        for place, value in enumerate(values):
            try:
                array = _tensor(value, info)
                if first is not None and array.size != first.size:
                    raise invalid(f"Expecting tensor size: {first.size} but got: {array.size}")
                if first is not None and array.shape != first.shape:
                    raise invalid(f"Expecting shape {_shape(first)} but got: {_shape(array)}")
            except StatusError as error:
                raise _in_element(place, key, error) from error
            first = array if first is None else first
        raise


def _in_element(place: int, key: str, error: StatusError) -> StatusError:
    named = f" key: {key}" if key else ""
    return invalid(
        f"Failed to process element: {place}{named} of 'instances' list. Error: {error.code.name}: {error.message}"
    )


def _shape(array: Array) -> str:
    return "[" + ",".join(str(size) for size in array.shape) + "]"


def _from_columns(columns: Any, infos: Mapping[str, TensorInfo]) -> dict[str, Array]:
    if not _is_object(columns):
        if len(infos) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required "
                "as per tensorinfo_map"
            )
        (info,) = infos.values()
        return {info.name: _tensor(columns, info)}
    for name in infos:
        if name not in columns:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: _tensor(columns[name], info) for name, info in infos.items()}


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def is_base64(value: Any) -> bool:
    """Whether it is ``{"b64": "…"}``: bytes, not an object."""
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def json_type(value: Any) -> str:
    """The name of a JSON value's type, as messages have it."""
    if isinstance(value, bool):
        return str(value)
    names: dict[type, str] = {dict: "Object", list: "Array", str: "String", type(None): "Null"}
    return names.get(type(value), "Number")


def wrong(value: Any, says: str) -> StatusError:
    """A JSON value is not what it should be."""
    return invalid(f"JSON Value: {_shown(value)} {says}")


def _shown(value: Any) -> str:
    return json.dumps(value, indent=4)[:200]


def _tensor(value: Any, info: TensorInfo) -> Array:
    """A nested list as an array; the first element of each level says how long its siblings are."""
    import numpy as np

    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    flat: list[Any] = []
    _flatten(value, info, shape, 0, flat)
    array = np.empty(len(flat), dtype=numpy_type(info.data_type))
    array[:] = flat
    return array.reshape(shape)


def _flatten(value: Any, info: TensorInfo, shape: list[int], level: int, flat: list[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {_shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        flat.append(_scalar(value, info))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for item in value:
        _flatten(item, info, shape, level + 1, flat)


def _scalar(value: Any, info: TensorInfo) -> Any:
    kind = numpy_type(info.data_type)
    if kind is None or kind not in _KINDS:
        raise StatusError(
            Code.UNIMPLEMENTED, f"Conversion of JSON Value: {_shown(value)} to type: {tensorflow_name(info.data_type)}"
        )
    if info.data_type == STRING:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, dict):
            return decoded(value)
    elif isinstance(value, bool):
        if kind == "bool":
            return value
    elif isinstance(value, int) and kind.startswith(("int", "uint")):
        if _holds(kind, value):
            return value
    elif isinstance(value, int | float) and kind in _DECIMALS:
        if lossless(kind, value):
            return value
        raise lossy(value, kind)
    raise wrong(value, f"Type: {json_type(value)} is not of expected type: {tensorflow_name(info.data_type)}")


def number_of(value: Any) -> Any:
    """A value as rapidjson has it: whole numbers beyond 64 bits are doubles."""
    return float(value) if isinstance(value, int) and not -(2**63) <= value < 2**64 else value


def _holds(kind: str, value: int) -> bool:
    import numpy as np

    limits = np.iinfo(kind)
    return bool(limits.min <= value <= limits.max)


def lossless(kind: str, value: float) -> bool:
    """Whether a number keeps its meaning as float32 or float64: whole ones exactly, others within the range."""
    _, digits, largest = _DECIMALS[kind]
    if isinstance(value, int) and isinstance(value := number_of(value), int):
        return bool(abs(value) < 2**digits)
    return not math.isfinite(value) or abs(value) <= largest


def lossy(value: float, kind: str) -> StatusError:
    """It does not keep it."""
    return invalid(f"Cannot convert JSON value: {_shown(value)} to {_DECIMALS[kind][0]} without loss of precision.")


def decoded(value: dict[str, Any]) -> bytes:
    """The bytes of ``{"b64": "…"}``.

    Raises:
        StatusError: it is something else, or no base64.
    """
    if not is_base64(value):
        raise wrong(value, "not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error as error:
        raise invalid("Unable to base64 decode") from error
