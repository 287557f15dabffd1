"""Outputs → JSON, in TF Serving's two formats, and the results of classify and regress.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_ml.serving.server.status import Code, StatusError, invalid

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_WITHOUT_FORM = {"float16", "bfloat16", "complex64", "complex128"}


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

    if array.dtype.name in _WITHOUT_FORM:
        raise StatusError(Code.UNIMPLEMENTED, f"Tensor name: {name} is of a type that has no form in JSON")
    if array.dtype == object:
        flat = [_text(name, value) for value in array.ravel().tolist()]
    elif array.dtype == np.float32:  # its own shortest decimals, not those of the double next to it
        flat = [float(str(value)) for value in array.ravel()]
    else:
        flat = array.ravel().tolist()
    if not flat:
        return array.tolist()  # as many empty lists as the shape says
    for size in reversed(array.shape[1:]):
        flat = [flat[i : i + size] for i in range(0, len(flat), size)]
    return flat if array.ndim else flat[0]


def _text(name: str, value: bytes) -> Any:
    if name.endswith("_bytes"):
        return {"b64": base64.b64encode(value).decode()}
    return value.decode(errors="replace")
