"""Operators of a model in production: release, scores, labels, drift, and what follows from it."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.exceptions import AirflowSkipException

from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.lifecycle.windows import Window
from airflow_ml.operators.links import PerformanceLink
from airflow_ml.operators.stage import StageOperator
from airflow_ml.operators.training import TrainingOperator
from airflow_ml.spec import Platform

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context


class ReleaseModelOperator(TrainingOperator):
    """A registered version into production: published, loaded, probed, and made champion.

    With ``inputs={"register": …}`` it releases what a training run has registered, and is skipped when the gates
    rejected it: a refused model is no failure. With ``stage_params={"version": n}`` it promotes or rolls back by hand;
    a version that its gates rejected is then an error.
    """

    stage: ClassVar[str] = "release"

    def window(self, context: "Context", platform: Platform) -> Window | None:
        """That of the training run; by hand there is none."""
        return super().window(context, platform) if self.inputs else None

    def parameters(self, context: "Context") -> dict[str, Any]:
        """The version has to be named where no training run names one.

        Raises:
            SpecError: It is not.
        """
        given = super().parameters(context)
        if not self.inputs and "version" not in given:
            raise SpecError("no version is given", where=f"task {self.task_id}", remedy="give `version` in the form")
        return given

    def execute(self, context: "Context") -> dict[str, Any]:
        """Skip what was rejected, release the rest."""
        registered = self.inputs.get("register")
        summary = registered.get("summary", {}) if isinstance(registered, Mapping) else {}
        if summary.get("verdict") == "rejected":
            reasons = "; ".join(str(reason) for reason in summary.get("reasons", ())) or "see the gate report"
            raise AirflowSkipException(f"version {summary.get('version')} was rejected by its gates: {reasons}")
        return super().execute(context)


class ScoreOperator(StageOperator):
    """Predictions of the champion, or of ``stage_params={"version": n}``."""

    stage: ClassVar[str] = "score"


class JoinFeedbackOperator(StageOperator):
    """Predictions joined with the labels that arrived."""

    stage: ClassVar[str] = "feedback"


class WatchingOperator(StageOperator):
    """A stage that looks at the ``monitoring.window`` days up to the run's last partition."""

    def window(self, context: "Context", platform: Platform) -> Window | None:
        """The watched days, none before the model's start."""
        window = super().window(context, platform)
        if window is None:
            return None
        start = window.end - timedelta(days=self.model.monitoring.window - 1)
        return Window.of(min(max(start, self.model.start), window.end), window.end)


class MonitorModelOperator(WatchingOperator):
    """Drift and performance against the release's reference: a page for each."""

    stage: ClassVar[str] = "monitor"
    operator_extra_links: "Sequence[BaseOperatorLink]" = (*StageOperator.operator_extra_links, PerformanceLink())


class DecideRetrainingOperator(WatchingOperator):
    """Healthy, retrain, broken input, or why not now: a row in the ledger."""

    stage: ClassVar[str] = "decide"
    noted: ClassVar[bool] = True
