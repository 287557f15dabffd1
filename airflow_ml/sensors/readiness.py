"""Sensors over `hooks.readiness`: they look once in the worker, then in the triggerer if they are deferrable."""

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseSensorOperator, conf
from airflow.sdk.exceptions import AirflowSensorTimeout

from airflow_ml.hooks.platform import PlatformHook
from airflow_ml.hooks.readiness import Readiness, Wanted, committed, labelled, landed
from airflow_ml.hooks.windows import FROM_RUN, TO_RUN, rendered_window
from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.lifecycle.windows import Window
from airflow_ml.operators.errors import as_airflow
from airflow_ml.spec import Model, Platform
from airflow_ml.triggers import ReadinessTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class ReadinessSensor(BaseSensorOperator):
    """Waits until every partition of a window is there.

    Args:
        model: The declaration.
        start: First partition, templated; as of `StageOperator`.
        end: Last partition, templated.
        platform: Where things are; None asks Airflow's configuration.
        airflow_ml_conn_id: Connection of type ``airflow_ml``.
        deferrable: Wait in the triggerer. What is there at the first look never defers.
    """

    template_fields: Sequence[str] = ("start", "end", "airflow_ml_conn_id")
    ui_color = "#f2ecf8"

    def __init__(
        self,
        *,
        model: Model,
        start: str = FROM_RUN,
        end: str = TO_RUN,
        platform: Platform | None = None,
        airflow_ml_conn_id: str | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.start = start
        self.end = end
        self.platform = platform
        self.airflow_ml_conn_id = airflow_ml_conn_id
        self.deferrable = deferrable
        self.asked: Window | None = None
        self._readiness: Readiness | None = None
        self._missing: list[Wanted] = []

    @abstractmethod
    def wanted(self, platform: Platform, window: Window) -> list[Wanted]:
        """What has to be there."""

    @property
    @abstractmethod
    def remedy(self) -> str:
        """What to do when it does not come."""

    def execute(self, context: "Context") -> Any:
        """Look once; then defer, or go on looking here."""
        if not self.deferrable:
            try:
                return super().execute(context)
            except AirflowSensorTimeout:
                raise AirflowSensorTimeout(self.timed_out(self._missing)) from None
        if self.poke(context):
            return None
        assert self._readiness is not None
        self.defer(
            trigger=ReadinessTrigger(
                wanted=[want.model_dump() for want in self._readiness.wanted],
                deadline=time.time() + self.timeout,
                poll_s=self.poke_interval,
            ),
            method_name="resumed",
        )

    def poke(self, context: "Context") -> bool:
        """Whether everything is there."""
        try:
            if self._readiness is None:
                platform = PlatformHook(self.airflow_ml_conn_id, self.platform).platform
                window = self.asked = rendered_window(self.model, self.start, self.end)
                if window is None:
                    raise SpecError(
                        "no window", where=f"task {self.task_id}", remedy="give `from` and `to`, or a logical date"
                    )
                self._readiness = Readiness(self.wanted(platform, window))
            self._missing = self._readiness.missing()
        except AirflowMLError as error:
            raise as_airflow(error) from None
        if self._missing:
            self.log.info("waiting for %s", _shown(self._missing))
        return not self._missing

    def resumed(self, context: "Context", event: Mapping[str, Any]) -> None:
        """What the trigger saw."""
        self.asked = rendered_window(self.model, self.start, self.end)
        if event["status"] == "ready":
            self.log.info("everything is there")
            return
        if event["status"] == "error":
            raise as_airflow(AirflowMLError.from_dict(dict(event)))
        raise AirflowSensorTimeout(self.timed_out([Wanted.model_validate(want) for want in event["missing"]]))

    def timed_out(self, missing: Sequence[Wanted]) -> str:
        """What was waited for, for how long, and the remedy."""
        return f"waited {self.timeout:.0f} s in vain for {_shown(missing)}. Remedy: {self.remedy}"


class LandingFileSensor(ReadinessSensor):
    """Waits for the landing files of a window.

    Args:
        source: ``source`` for the model's input, ``label`` for its outcomes.
        **kwargs: As of `ReadinessSensor`.
    """

    def __init__(self, *, source: Literal["source", "label"] = "source", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source

    def wanted(self, platform: Platform, window: Window) -> list[Wanted]:
        """The files."""
        return landed(platform, self.model.source if self.source == "source" else self.model.label.source, window)

    @property
    def remedy(self) -> str:
        """Upstream."""
        return "ask the owner of the source for the files; then clear this task"


class PartitionCommittedSensor(ReadinessSensor):
    """Waits until a table of the model holds every partition of a window.

    Args:
        table: raw, outcomes, features, predictions, feedback or decisions.
        **kwargs: As of `ReadinessSensor`.
    """

    template_fields: Sequence[str] = (*ReadinessSensor.template_fields, "table")

    def __init__(self, *, table: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table

    def wanted(self, platform: Platform, window: Window) -> list[Wanted]:
        """The partitions."""
        return committed(platform, self.model, self.table, window)

    @property
    def remedy(self) -> str:
        """The DAG that commits the table."""
        return f"run the DAG that commits {self.table!r} for these days; then clear this task"


class LabelsArrivedSensor(ReadinessSensor):
    """Waits until the outcomes of a window have landed, or are committed already."""

    def wanted(self, platform: Platform, window: Window) -> list[Wanted]:
        """Outcome files or partitions."""
        return labelled(platform, self.model, window)

    @property
    def remedy(self) -> str:
        """Upstream."""
        return f"outcomes are due after {self.model.label.delay} day(s): ask their source; then clear this task"


def _shown(missing: Sequence[Wanted]) -> str:
    shown = ", ".join(str(want) for want in missing[:3])
    return f"{shown} and {len(missing) - 3} more" if len(missing) > 3 else shown
