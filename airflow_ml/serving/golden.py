"""Golden requests: questions whose answers are known, kept with a release.

They are taken from the test split and answered by the torch network. Whatever serves the model later must give the same
numbers: the gate asks a server process, the release asks the server that takes the traffic.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from airflow_ml.lifecycle.errors import InputError
from airflow_ml.lifecycle.preprocessing import Preprocessing, as_text, as_whole
from airflow_ml.spec.base import Frozen

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class GoldenRequest(Frozen):
    """A request and its answer.

    Attributes:
        inputs: Column → values, in the types of the serving signature; ``None`` is a missing number, ``""`` a missing
            text.
        probability: The answer of the torch network, row by row.
    """

    inputs: dict[str, list[str | int | float | None]]
    probability: list[float]

    @model_validator(mode="after")
    def _check(self) -> GoldenRequest:
        lengths = {len(values) for values in self.inputs.values()} | {len(self.probability)}
        if len(lengths) != 1:
            raise ValueError(f"columns and answers are of different lengths: {sorted(lengths)}")
        return self

    def columns(self) -> dict[str, Array]:
        """The inputs as arrays: text as objects, whole numbers as int64, all else as float32 with NaN for missing."""
        import numpy as np

        columns: dict[str, Array] = {}
        for name, values in self.inputs.items():
            if any(isinstance(value, str) for value in values):
                columns[name] = np.array(values, dtype=object)
            elif values and all(isinstance(value, int) for value in values):
                columns[name] = np.array(values, dtype=np.int64)
            else:
                columns[name] = np.array([np.nan if v is None else v for v in values], dtype=np.float32)
        return columns


def golden_requests(
    preprocessing: Preprocessing, columns: Mapping[str, Array], probability: Array, rows: int = 8
) -> list[GoldenRequest]:
    """Cut raw columns and their answers into requests of ``rows`` rows.

    Args:
        preprocessing: Says which columns are sent, and in which type.
        columns: Raw columns [n].
        probability: The network's answers [n] (:func:`airflow_ml.serving.export.torch_probability`).
        rows: Rows of one request.
    """
    inputs = request_columns(preprocessing, columns)
    listed = {name: _listed(column) for name, column in inputs.items()}
    return [
        GoldenRequest(
            inputs={name: values[start : start + rows] for name, values in listed.items()},
            probability=[float(p) for p in probability[start : start + rows]],
        )
        for start in range(0, len(probability), rows)
    ]


def request_columns(preprocessing: Preprocessing, columns: Mapping[str, Array]) -> dict[str, Array]:
    """Raw columns in the types of the serving signature: text, int64, float32."""
    import numpy as np

    inputs: dict[str, Array] = {}
    for vocabulary in preprocessing.categorical:
        column = columns[vocabulary.name]
        inputs[vocabulary.name] = as_text(column) if vocabulary.dtype == "string" else as_whole(column)
    for scaling in preprocessing.numeric:
        inputs[scaling.name] = np.asarray(columns[scaling.name]).astype(np.float32)
    return inputs


def _listed(column: Array) -> list[Any]:
    return [None if isinstance(v, float) and not math.isfinite(v) else v for v in column.tolist()]


def write_golden(path: Path, requests: Sequence[GoldenRequest] | Iterable[GoldenRequest]) -> None:
    """Write requests as JSON. Equal requests give equal bytes."""
    path.write_text(json.dumps([request.model_dump() for request in requests], allow_nan=False) + "\n")


def read_golden(path: Path) -> list[GoldenRequest]:
    """Read what :func:`write_golden` wrote.

    Raises:
        InputError: the file is missing or is not a list of golden requests.
    """
    try:
        return [GoldenRequest.model_validate(item) for item in json.loads(path.read_text())]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read golden requests: {error}", str(path), "run the export stage again") from error
