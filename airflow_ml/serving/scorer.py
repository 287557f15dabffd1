"""Scoring many rows with an exported model, without a server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.lifecycle.preprocessing import as_text, as_whole
from airflow_ml.serving.protos.tensors import STRING, numpy_type
from airflow_ml.serving.saved_model import DEFAULT_SIGNATURE, SavedModel

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class SavedModelScorer:
    """Probabilities for columns of any length, in batches of fixed size: memory does not grow with the rows.

    Args:
        saved_model: Folder of the SavedModel.
        batch_size: Rows in one call. Beyond a few thousand a larger batch is not faster.
        threads: Threads for one call; 0 lets TensorFlow choose.

    Raises:
        ServingError: it cannot be loaded.
    """

    def __init__(self, saved_model: Path | str, batch_size: int = 8192, threads: int = 0) -> None:
        self._model = SavedModel(saved_model, threads)
        self._signature = self._model.signatures[DEFAULT_SIGNATURE]
        self.batch_size = batch_size

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns that the model wants."""
        return tuple(self._signature.inputs)

    def predict(self, columns: Mapping[str, Array]) -> Array:
        """Score rows.

        Args:
            columns: Name → [n]; others than the model's are ignored. ``None`` and NaN are missing values.

        Returns:
            float32 [n].

        Raises:
            ServingError: a column is missing, or not of the type that the model takes.
        """
        import numpy as np

        inputs = {name: self._input(name, columns) for name in self._signature.inputs}
        rows = len(next(iter(inputs.values())))
        out = np.empty(rows, dtype=np.float32)
        for start in range(0, rows, self.batch_size):
            batch = {name: column[start : start + self.batch_size] for name, column in inputs.items()}
            (probability,) = self._model.run(batch).values()
            out[start : start + self.batch_size] = probability.reshape(-1)
        return out

    def _input(self, name: str, columns: Mapping[str, Array]) -> Array:
        import numpy as np

        where = str(self._model.path)
        if name not in columns:
            raise ServingError(
                f"the model wants the column {name!r}, which is not there",
                where,
                f"it takes: {', '.join(self.columns)}",
            )
        data_type = self._signature.inputs[name].data_type
        column = np.asarray(columns[name])
        if data_type == STRING:
            return as_text(column)
        wanted = np.dtype(numpy_type(data_type))
        try:
            if column.dtype == object and wanted.kind == "f":  # None is how a nullable column says NaN
                column = np.array([np.nan if v is None else v for v in column.tolist()])
            return as_whole(column) if wanted.kind == "i" else column.astype(wanted, copy=False)
        except (TypeError, ValueError) as error:
            raise ServingError(
                f"column {name!r} of {column.dtype} cannot be read as {wanted}: {error}",
                where,
                "give it in its own type",
            ) from error

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def __enter__(self) -> SavedModelScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
