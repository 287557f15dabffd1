"""Asking versions of the model server: each call is timed, what it gives is checked, who is on trial is spared."""

from __future__ import annotations

import time

from airflow_ml.gateway.inputs import Columns
from airflow_ml.gateway.metrics import Metrics
from airflow_ml.gateway.trial import Trial
from airflow_ml.lifecycle.errors import AirflowMLError, BadFields, ServingError
from airflow_ml.lifecycle.routing import Route
from airflow_ml.serving.calls import Prediction
from airflow_ml.serving.client import AsyncClient
from airflow_ml.serving.errors import (
    AnswerUnreadable,
    ModelNotServed,
    RequestRefused,
    ServerUnreachable,
    ServingTimeout,
)

_LATE_S = 0.001
_ROUNDING = 1e-6


class Withheld(ServingError):
    """A version on trial was not asked: it has too much to do already, or failed too often."""


class WrongAnswer(ServingError):
    """A version answered with something that is no probability for each row."""


_NAMES: tuple[tuple[type[AirflowMLError], str], ...] = (
    (ServingTimeout, "timeout"),
    (ServerUnreachable, "unreachable"),
    (ModelNotServed, "not_served"),
    (RequestRefused, "refused"),
    (WrongAnswer, "wrong_answer"),
    (AnswerUnreadable, "wrong_answer"),
    (Withheld, "withheld"),
    (BadFields, "signature"),
)


def name_of(error: AirflowMLError) -> str:
    """Of an error, in metrics and in the log."""
    return next((name for kind, name in _NAMES if isinstance(error, kind)), "failed")


class Asker:
    """Asks the versions of one model.

    Args:
        model: Its name.
        server: The model server.
        metrics: What is counted.
    """

    def __init__(self, model: str, server: AsyncClient, metrics: Metrics) -> None:
        self._model = model
        self._server = server
        self._metrics = metrics
        self._trials: dict[int, Trial] = {}

    def try_anew(self) -> None:
        """The routing changed: every version on trial gets a new one."""
        self._trials = {}

    async def attempt(self, chosen: Route, stable: int, columns: Columns, rows: int, seconds: float) -> list[float]:
        """Ask a version, unless it is on trial and has to be spared, or others from it.

        Args:
            chosen: Whose turn it is.
            stable: The version that is never on trial.
            columns: The rows as it takes them.
            rows: How many they are.
            seconds: For its answer.

        Raises:
            ServingError: As `ask`, or it was not asked.
        """
        if chosen.version == stable:
            return await self.ask(chosen.arm, chosen.version, columns, rows, seconds)
        trial = self._trials.setdefault(chosen.version, Trial())
        if not trial.admit():
            raise Withheld(
                "not asked: it has too much to do already, or failed too often",
                where=f"model {self._model} version {chosen.version}",
                remedy="look at its errors; a smaller share needs less of it",
            )
        well: bool | None = None  # a caller who goes away, or a mistake of ours, says nothing of the version
        try:
            given = await self.ask(chosen.arm, chosen.version, columns, rows, seconds)
            well = True
        except ServingError:
            well = False
            raise
        finally:
            trial.done(well)
        return given

    async def ask(self, arm: str, version: int, columns: Columns, rows: int, seconds: float) -> list[float]:
        """Ask a version.

        Raises:
            ServingError: It gave no probability for each row in time.
        """
        series = self._metrics.of_arm(arm, version)
        began = time.perf_counter()
        try:
            given = await self._server.predict(self._model, columns, version=version, deadline=max(seconds, _LATE_S))
        finally:
            series.latency.observe(time.perf_counter() - began)
        probabilities = _probabilities(given)
        if len(probabilities) != rows or not all(-_ROUNDING <= p <= 1 + _ROUNDING for p in probabilities):
            raise self._wrong(version, f"no probability for each of {rows} rows: {str(probabilities)[:80]}")
        for probability in probabilities:
            series.score.observe(probability)
        return probabilities

    def failed(self, arm: str, version: int, error: AirflowMLError) -> None:
        """Count that a version gave no usable answer."""
        self._metrics.errors.labels(self._model, arm, str(version), name_of(error)).inc()

    def _wrong(self, version: int, what: str) -> WrongAnswer:
        return WrongAnswer(what, f"model {self._model} version {version}", "roll this version back")


def _probabilities(given: Prediction) -> list[float]:
    """The output ``probability``; none where it is missing or holds no numbers."""
    output = given.outputs.get("probability")
    found: list[float] = output.reshape(-1).tolist() if output is not None and output.dtype.kind == "f" else []
    return found
