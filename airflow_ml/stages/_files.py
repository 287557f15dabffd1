"""Files of earlier stages, and their columns as numpy, batch by batch: memory does not grow with the rows."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.lifecycle.requests import FileOutput, JobResult
from airflow_ml.stages.context import StageContext

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, Any]


def file_of(result: JobResult, name: str) -> FileOutput:
    """A file output of an earlier stage, by its contract's name."""
    output = result.outputs[name]
    if not isinstance(output, FileOutput):
        raise TypeError(f"output {name!r} of stage {result.stage!r} is a table")
    return output


def read_batches(folder: Path, columns: Sequence[str], batch_rows: int) -> "Iterator[pa.RecordBatch]":
    """Batches of the Parquet files of a folder, in the order of their names.

    Args:
        folder: Searched with its sub-folders.
        columns: To read.
        batch_rows: Rows of a batch at most.
    """
    import pyarrow.parquet as pq

    for path in sorted(folder.glob("**/*.parquet")):
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=batch_rows, columns=list(columns))


def to_numpy(batch: "pa.RecordBatch", columns: Iterable[str]) -> "dict[str, Array]":
    """Columns of a batch, [n] each: a null number is NaN, a null text is None."""
    return {name: batch.column(name).to_numpy(zero_copy_only=False) for name in columns}


def wanted_version(ctx: StageContext) -> int | None:
    """The registry version that the request's parameters pin, or None.

    Raises:
        SpecError: It is not a whole number.
    """
    where = f"stage {ctx.request.stage}"
    value = ctx.params.get("version")
    if value is None or value == "":
        return None
    # int() would take 1.9 and True, too.
    if type(value) is int or (isinstance(value, str) and value.isascii() and value.isdigit()):
        return int(value)
    raise SpecError(f"version {value!r} is not a whole number", where, "pass {'version': 3}")
