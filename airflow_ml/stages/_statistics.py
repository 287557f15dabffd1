"""Column statistics of raw rows."""

from typing import TYPE_CHECKING

from airflow_ml.lifecycle.statistics import (
    MAX_CATEGORIES,
    QUANTILES,
    ColumnStatistics,
    NumericStatistics,
    Statistics,
)
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Column, Model

if TYPE_CHECKING:
    import pyarrow as pa


def statistics_of(raw: "pa.Table", model: Model, window: Window) -> Statistics:
    """Statistics of a source's declared columns.

    Args:
        raw: Rows of the window, with ``ds``.
        model: Whose source it is.
        window: The days.
    """
    daily = [row["counts"] for row in raw["ds"].value_counts().to_pylist()]
    return Statistics(
        model=model.name,
        days=(str(window.start), str(window.end)),
        rows=len(raw),
        daily_rows=(min(daily, default=0), max(daily, default=0)),
        columns=tuple(_column(raw[column.name], column) for column in model.source.schema_.columns),
    )


def _column(values: "pa.ChunkedArray", column: Column) -> ColumnStatistics:
    rows = len(values)
    present = values.drop_null()
    return ColumnStatistics(
        name=column.name,
        type=column.type,
        rows=rows,
        null_share=values.null_count / rows if rows else 0.0,
        numeric=_numeric(present) if column.type in ("int", "float") and len(present) else None,
        categories=_categories(present, rows) if column.type == "string" else None,
    )


def _numeric(present: "pa.ChunkedArray") -> NumericStatistics:
    import pyarrow.compute as pc

    ends = pc.min_max(present).as_py()
    return NumericStatistics(
        minimum=ends["min"],
        maximum=ends["max"],
        mean=pc.mean(present).as_py(),
        quantiles=tuple(pc.quantile(present, list(QUANTILES)).to_pylist()),
    )


def _categories(present: "pa.ChunkedArray", rows: int) -> dict[str, float] | None:
    counts = {row["values"]: row["counts"] for row in present.value_counts().to_pylist()}
    if len(counts) > MAX_CATEGORIES:
        return None
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {value: count / rows for value, count in ordered}
