"""Sensors over `hooks.looks`: is a version served, does it have its traffic?"""

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout

from airflow_ml.hooks.looks import Look, TrafficReached, VersionServed
from airflow_ml.hooks.platform import PlatformHook
from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.operators.errors import as_airflow
from airflow_ml.spec import Model, Platform
from airflow_ml.triggers import LookTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class ServingSensor(BaseSensorOperator):
    """Looks once in the worker, then in the triggerer if it is deferrable.

    Args:
        model: The declaration.
        version: Registry version, templated.
        deferrable: Wait in the triggerer. What is so at the first look never defers.
    """

    template_fields: Sequence[str] = ("version",)
    ui_color = "#f2ecf8"

    def __init__(
        self,
        *,
        model: Model,
        version: int | str | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.deferrable = deferrable
        self._seen = ""

    @property
    @abstractmethod
    def question(self) -> VersionServed | TrafficReached:
        """What is looked for."""

    def execute(self, context: "Context") -> Any:
        """Look once; then defer, or go on looking here."""
        if not self.deferrable:
            try:
                return super().execute(context)
            except AirflowSensorTimeout:
                raise AirflowSensorTimeout(self._in_vain()) from None
        if not self.poke(context):
            self.defer(
                trigger=LookTrigger(
                    question=self.question.model_dump(mode="json"),
                    deadline=time.time() + self.timeout,
                    poll_s=self.poke_interval,
                ),
                method_name="resumed",
            )
        return None

    def poke(self, context: "Context") -> bool:
        """Whether it is so."""
        try:
            return self._decide(self.question.look())
        except AirflowMLError as error:
            raise as_airflow(error) from None

    def resumed(self, context: "Context", event: Mapping[str, Any]) -> None:
        """What the trigger saw."""
        if event["status"] == "error":
            raise as_airflow(AirflowMLError.from_dict(dict(event)))
        self._seen = event["text"]
        if event["status"] == "timeout":
            raise AirflowSensorTimeout(self._in_vain())
        self._decide(Look(status=event["status"], text=event["text"]))

    def _decide(self, seen: Look) -> bool:
        self._seen = seen.text
        self.log.info("%s", seen.text)
        if seen.status == "failed":
            raise AirflowFailException(seen.text)
        return seen.status == "ready"

    def _in_vain(self) -> str:
        return f"waited {self.timeout:.0f} s in vain: {self._seen}. Remedy: look at the rollout of this model"

    def _number(self) -> int | None:
        if self.version in (None, ""):
            return None
        try:
            return int(str(self.version))
        except ValueError as error:
            raise SpecError(f"version {self.version!r} is no number", f"task {self.task_id}", "give one") from error


class ModelVersionSensor(ServingSensor):
    """Waits until a model server answers with a version: it is loaded, and AVAILABLE.

    Fails at once when the server says that it could not load it.

    Args:
        version_label: In place of a version, any version that has this label.
        tf_serving_conn_id: Connection of type ``tf_serving``.
        **kwargs: As of `ServingSensor`.
    """

    template_fields: Sequence[str] = (*ServingSensor.template_fields, "version_label", "tf_serving_conn_id")

    def __init__(
        self, *, version_label: str | None = None, tf_serving_conn_id: str = "tf_serving_default", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.version_label = version_label
        self.tf_serving_conn_id = tf_serving_conn_id

    @property
    def question(self) -> VersionServed:
        """Of the server."""
        return VersionServed(
            conn_id=self.tf_serving_conn_id,
            model=self.model.name,
            version=self._number(),
            label=self.version_label or None,
        )


class TrafficReachedSensor(ServingSensor):
    """Waits until a version has a share of the traffic, as the gateway is told.

    Fails at once when its rollout was rolled back.

    Args:
        share: 0 to 1; 1 is the promoted champion. Templated.
        platform: Where things are; None asks Airflow's configuration.
        airflow_ml_conn_id: Connection of type ``airflow_ml``.
        **kwargs: As of `ServingSensor`; the version has to be given.
    """

    template_fields: Sequence[str] = (*ServingSensor.template_fields, "share", "airflow_ml_conn_id")

    def __init__(
        self,
        *,
        share: float | str = 1.0,
        platform: Platform | None = None,
        airflow_ml_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.share = share
        self.platform = platform
        self.airflow_ml_conn_id = airflow_ml_conn_id

    @property
    def question(self) -> TrafficReached:
        """Of the release record.

        Raises:
            SpecError: No version, or no share, is given.
        """
        version = self._number()
        if version is None:
            raise SpecError("no version is given", f"task {self.task_id}", "give one")
        try:
            share = float(self.share)
            platform = PlatformHook(self.airflow_ml_conn_id, self.platform).platform
            return TrafficReached(platform=platform, model=self.model.name, version=version, share=share)
        except ValueError as error:
            raise SpecError(
                f"share {self.share!r} is no share", f"task {self.task_id}", "give one above 0, up to 1"
            ) from error
