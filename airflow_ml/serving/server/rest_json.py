"""JSON ↔ tensors, in TF Serving's two formats: a list of rows (``instances``) or named columns (``inputs``).

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
from airflow_ml.serving.server.status import Code, StatusError, invalid

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def parse(body: bytes) -> dict[str, Any]:
    """The request's JSON object; NaN and Infinity are allowed, as in TF Serving.

    Raises:
        StatusError: it is not JSON, or not an object.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except json.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_shown(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise invalid(
            f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return document


def to_arrays(document: Mapping[str, Any], infos: Mapping[str, TensorInfo]) -> tuple[dict[str, Array], bool]:
    """The inputs of a predict request.

    Returns:
        Input name → array, and whether the request is in row format.

    Raises:
        StatusError: neither or both formats, unknown or missing inputs, values of another type, ragged lists.
    """
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {_shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if "instances" in document:
        if not isinstance(document["instances"], list):
            raise invalid(f"JSON Value: {_shown(document)} Excepting 'instances' to be an list/array")
        if not document["instances"]:
            raise invalid(f"JSON Value: {_shown(document)} No values in 'instances' array")
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
    if kind is None:
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
    elif isinstance(value, int | float) and kind.startswith("float"):
        if _lossless(kind, value):
            return value
        names = {"float32": "float", "float64": "double"}
        raise invalid(f"Cannot convert JSON value: {_shown(value)} to {names[kind]} without loss of precision.")
    raise invalid(
        f"JSON Value: {_shown(value)} Type: {json_type(value)} is not of expected type: "
        f"{tensorflow_name(info.data_type)}"
    )


def _holds(kind: str, value: int) -> bool:
    import numpy as np

    limits = np.iinfo(kind)
    return bool(limits.min <= value <= limits.max)


def _lossless(kind: str, value: float) -> bool:
    """Whether a number keeps its meaning: whole ones exactly, others within the range."""
    digits, largest = (24, 3.4028234663852886e38) if kind == "float32" else (53, math.inf)
    if isinstance(value, int):
        return bool(abs(value) < 2**digits)
    return not math.isfinite(value) or abs(value) <= largest


def decoded(value: dict[str, Any]) -> bytes:
    """The bytes of ``{"b64": "…"}``.

    Raises:
        StatusError: it is something else, or no base64.
    """
    if not is_base64(value):
        raise invalid(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error as error:
        raise invalid("Unable to base64 decode") from error


def to_json(outputs: Mapping[str, Array], rows: bool) -> bytes:
    """The answer: ``predictions`` for rows, ``outputs`` for columns; a lone output stands without its name."""
    values = {name: _listed(name, array) for name, array in outputs.items()}
    if not rows:
        answer: Any = next(iter(values.values())) if len(values) == 1 else values
        return json.dumps({"outputs": answer}, indent=4).encode()
    expected = -1
    for name, array in outputs.items():
        if not array.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if expected not in (-1, array.shape[0]):
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {array.shape[0]} expecting: {expected}")
        expected = array.shape[0]
    if len(values) == 1:
        (answer,) = values.values()
    else:
        answer = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return json.dumps({"predictions": answer}, indent=4).encode()


def of_classifications(result: Any) -> bytes:
    """A ``ClassificationResult``: for each example, label and score of each class."""
    rows = [[[found.label, _float(found.score)] for found in entry.classes] for entry in result.classifications]
    return json.dumps({"results": rows}, indent=4).encode()


def of_regressions(result: Any) -> bytes:
    """A ``RegressionResult``: a value for each example."""
    return json.dumps({"results": [_float(entry.value) for entry in result.regressions]}, indent=4).encode()


def _float(value: float) -> float:
    """A float32's own shortest decimals, not those of the double next to it."""
    import numpy as np

    return float(str(np.float32(value)))


def _listed(name: str, array: Array) -> Any:
    import numpy as np

    if array.dtype == object:
        flat = [_text(name, value) for value in array.ravel().tolist()]
    elif array.dtype == np.float32:  # its own shortest decimals, not those of the double next to it
        flat = [float(str(value)) for value in array.ravel()]
    else:
        flat = array.ravel().tolist()
    for size in reversed(array.shape[1:]):
        flat = [flat[i : i + size] for i in range(0, len(flat), size)] if size else []
    return flat if array.ndim else flat[0]


def _text(name: str, value: bytes) -> Any:
    if name.endswith("_bytes"):
        return {"b64": base64.b64encode(value).decode()}
    return value.decode(errors="replace")
