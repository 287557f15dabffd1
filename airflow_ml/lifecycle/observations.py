"""What monitoring saw in a window, as values: the evidence that a retrain decision is made from."""

from datetime import date
from typing import Literal

from pydantic import Field

from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec.base import Frozen

Status = Literal["pass", "fail", "not_judged"]
"""Of one test: ``fail`` means drifted, or below the declared performance."""


class ColumnDrift(Frozen):
    """How far one column moved from the reference.

    Attributes:
        column: Model input.
        status: Of its test.
        method: Name of the distance.
        distance: None where it cannot be measured.
        threshold: The test fails from here on.
        missing: Share of null values in the window.
        missing_reference: Share of null values in the reference.
    """

    column: str
    status: Status
    method: str
    distance: float | None
    threshold: float
    missing: float
    missing_reference: float

    @property
    def excess(self) -> float:
        """Distance in limits: 1 and more has drifted; 0 where it cannot be measured."""
        return (self.distance or 0.0) / self.threshold


class Observation(Frozen):
    """What monitoring saw in a window. The same data gives the same observation: no clock, no path.

    Attributes:
        model: Name.
        window: Days that were looked at.
        model_version: Version that made the predictions of the window's last day; None when there are none.
        release: Its release id.
        reference: Days of the reference: the test split of that version.
        rows: Predictions of this version in the window.
        labelled: How many of them have a label.
        coverage: The share.
        data_drift: Whether the share of drifted columns stays below `Monitoring.drifted_share`.
        prediction_drift: Whether the probabilities stay close to the reference's.
        target_drift: Whether the label's rate stays close to the reference's.
        performance: Whether ROC AUC reaches `Monitoring.min_roc_auc`.
        columns: The watched columns.
        drifted_share: Drifted columns over watched columns.
        prediction_distance: Of the probabilities, from the reference.
        target_distance: Of the label, from the reference.
        roc_auc: On the labelled rows of the window.
        roc_auc_reference: On the reference.
        positive_rate: Share of positive labels.
        positive_rate_reference: In the reference.
        prediction_mean: Mean probability.
        prediction_mean_reference: In the reference.
        sampled: Rows that the report saw, of how many: ``{"window": (10000, 65000), "reference": (8000, 8000)}``.
        broken: What is wrong with the input, one sentence each; empty when it is sound.
        notes: What a reader must know to weigh the verdict.
        labelled_until: Newest day, up to the window's end, whose outcomes are known: where a training window may end.
    """

    model: str
    window: Window
    model_version: int | None = None
    release: str = ""
    reference: Window | None = None
    rows: int = 0
    labelled: int = 0
    coverage: float = 0.0
    data_drift: Status = "not_judged"
    prediction_drift: Status = "not_judged"
    target_drift: Status = "not_judged"
    performance: Status = "not_judged"
    columns: tuple[ColumnDrift, ...] = ()
    drifted_share: float | None = None
    prediction_distance: float | None = None
    target_distance: float | None = None
    roc_auc: float | None = None
    roc_auc_reference: float | None = None
    positive_rate: float | None = None
    positive_rate_reference: float | None = None
    prediction_mean: float | None = None
    prediction_mean_reference: float | None = None
    sampled: dict[str, tuple[int, int]] = Field(default_factory=dict)
    broken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    labelled_until: date | None = None

    @property
    def drifted_columns(self) -> tuple[str, ...]:
        """Names of the columns whose test failed, the farthest first."""
        failed = [column for column in self.columns if column.status == "fail"]
        return tuple(c.column for c in sorted(failed, key=lambda c: (-c.excess, c.column)))
