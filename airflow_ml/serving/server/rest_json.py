"""JSON ↔ tensors, in TF Serving's two formats: a list of rows (``instances``) or named columns (``inputs``).

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_ml.serving.protos.tensors import STRING, numpy_type, type_name
from airflow_ml.serving.saved_model import TensorInfo
from airflow_ml.serving.server.status import invalid

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
        raise invalid(f"JSON Value: {json.dumps(document)[:200]} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise invalid("JSON Value: not formatted correctly. 'signature_name' key must be a string value.")
    return document


def to_arrays(document: Mapping[str, Any], infos: Mapping[str, TensorInfo]) -> tuple[dict[str, Array], bool]:
    """The inputs of a predict request.

    Returns:
        Input name → array, and whether the request is in row format.

    Raises:
        StatusError: neither or both formats, unknown or missing inputs, values of another type, ragged lists.
    """
    if "instances" in document and "inputs" in document:
        raise invalid("JSON Value: Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
    if "instances" in document:
        return _from_rows(document["instances"], infos), True
    if "inputs" in document:
        return _from_columns(document["inputs"], infos), False
    raise invalid("Missing 'inputs' or 'instances' key")


def _from_rows(rows: Any, infos: Mapping[str, TensorInfo]) -> dict[str, Array]:
    if not isinstance(rows, list):
        raise invalid("JSON Value: Excepting 'instances' to be an list/array")
    if not rows:
        raise invalid("JSON Value: No values in 'instances' array")
    if not _is_object(rows[0]):
        if len(infos) > 1:
            raise invalid(
                "instances is a plain list, but expecting list of objects as multiple input tensors required "
                "as per tensorinfo_map"
            )
        (info,) = infos.values()
        return {info.name: _tensor(rows, info)}
    for place, row in enumerate(rows):
        if not _is_object(row):
            raise invalid(f"Expecting object but got list at item {place} of input list")
        unknown = sorted(set(row) - set(infos))
        if unknown:
            raise invalid(
                f"Failed to process element: {place} key: {unknown[0]} of 'instances' list. Error: INVALID_ARGUMENT: "
                f"JSON object: does not have named input: {unknown[0]}"
            )
        if len(row) != len(infos):
            raise invalid(
                f"Failed to process element: {place} of 'instances' list. JSON object: {json.dumps(row)[:200]} "
                f"keys must be equal to: {','.join(sorted(infos))}"
            )
    return {name: _tensor([row[name] for row in rows], info) for name, info in infos.items()}


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
    return isinstance(value, dict) and not (set(value) == {"b64"} and isinstance(value["b64"], str))


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
                f"JSON Value: {json.dumps(value)[:200]} found at incorrect level: {level + 1} in the JSON DOM. "
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
    kind = numpy_type(info.data_type) or ""
    if info.data_type == STRING:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, dict):
            return _decoded(value)
    elif isinstance(value, bool):
        if kind == "bool":
            return value
    elif isinstance(value, int) and kind.startswith(("int", "uint")):
        return _in_range(value, info, kind)
    elif isinstance(value, int | float) and kind.startswith("float"):
        return value
    name = {dict: "Object", str: "String", bool: "True" if value else "False", type(None): "Null"}.get(
        type(value), "Number"
    )
    raise invalid(
        f"JSON Value: {json.dumps(value)[:200]} Type: {name} is not of expected type: {type_name(info.data_type)} "
        f"(input {info.name})"
    )


def _in_range(value: int, info: TensorInfo, kind: str) -> int:
    import numpy as np

    limits = np.iinfo(kind)
    if not limits.min <= value <= limits.max:
        raise invalid(f"JSON Value: {value} Type: Number is not of expected type: {kind} (input {info.name})")
    return value


def _decoded(value: dict[str, Any]) -> bytes:
    if set(value) != {"b64"} or not isinstance(value["b64"], str):
        raise invalid(f"JSON Value: {json.dumps(value)[:200]} not formatted correctly for base64 data")
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
    sizes = {array.shape[0] if array.ndim else -1 for array in outputs.values()}
    if -1 in sizes or len(sizes) != 1:
        raise invalid("an output has no batch dimension or another batch size; ask in column format ('inputs')")
    if len(values) == 1:
        (answer,) = values.values()
    else:
        answer = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return json.dumps({"predictions": answer}, indent=4).encode()


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
