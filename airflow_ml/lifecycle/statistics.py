"""What the columns of a source looked like in a training set: what later partitions are compared with."""

from pydantic import Field

from airflow_ml.spec.base import Frozen

MAX_CATEGORIES = 1000
"""A text column with more values than this is an identifier, and its values are not kept."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class NumericStatistics(Frozen):
    """Of the values of a number column that are there.

    Attributes:
        minimum: Smallest.
        maximum: Largest.
        mean: Arithmetic mean.
        quantiles: At `QUANTILES`.
    """

    minimum: float
    maximum: float
    mean: float
    quantiles: tuple[float, ...]


class ColumnStatistics(Frozen):
    """Of one column.

    Attributes:
        name: Column.
        type: As declared.
        rows: Rows, null or not.
        null_share: Share of nulls.
        numeric: For ``int`` and ``float`` columns with values.
        categories: Value to its share of the rows, the most frequent first; None for columns that are no text or have
            too many.
    """

    name: str
    type: str
    rows: int = Field(ge=0)
    null_share: float = Field(ge=0, le=1)
    numeric: NumericStatistics | None = None
    categories: dict[str, float] | None = None


class Statistics(Frozen):
    """Of a source over the days that a model was trained on.

    Attributes:
        model: Name.
        days: First and last day, ISO.
        rows: Rows altogether.
        daily_rows: Smallest and largest partition.
        columns: In declared order.
    """

    model: str
    days: tuple[str, str]
    rows: int
    daily_rows: tuple[int, int]
    columns: tuple[ColumnStatistics, ...]

    def column(self, name: str) -> ColumnStatistics | None:
        """Statistics of a column; None when training did not have it."""
        return next((column for column in self.columns if column.name == name), None)
