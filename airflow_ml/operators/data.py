"""Data operators: a window of partitions in, committed partitions out."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.exceptions import AirflowSkipException

from airflow_ml.lifecycle.windows import Window
from airflow_ml.operators.stage import StageOperator
from airflow_ml.spec import Platform

if TYPE_CHECKING:
    from airflow.sdk import Context


class IngestOperator(StageOperator):
    """Landing files to the raw table. Refuses a file that is late, empty, truncated or of another form."""

    stage: ClassVar[str] = "ingest"


class IngestOutcomesOperator(StageOperator):
    """Outcome files to the outcomes table, with the label.

    Args:
        lag: Days before the run's window: a data run takes the outcomes that are known at its 00:00. What would lie
            before the model's start is left out; the task is skipped when nothing is left.
        **kwargs: As of `StageOperator`.
    """

    stage: ClassVar[str] = "ingest_outcomes"

    def __init__(self, *, lag: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lag = lag

    def window(self, context: "Context", platform: Platform) -> Window | None:
        """The run's window, earlier by the lag."""
        window = super().window(context, platform)
        if window is None or not self.lag:
            return window
        end = window.end - timedelta(days=self.lag)
        if end < self.model.start:
            raise AirflowSkipException(
                f"no outcomes are known yet: they would be of {end}, the first partition is {self.model.start}"
            )
        return Window.of(max(window.start - timedelta(days=self.lag), self.model.start), end)


class ValidateDataOperator(StageOperator):
    """Schema and value skew of raw partitions; fails on an anomaly of severity ``fail``, and reports them all."""

    stage: ClassVar[str] = "validate"


class BuildFeaturesOperator(StageOperator):
    """Raw partitions and known outcomes to the feature table, by Spark."""

    stage: ClassVar[str] = "features"
