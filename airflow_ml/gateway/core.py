"""A request from its raw features to its answers: routed, checked, asked, rescued, recorded, copied.

The order is what the promises need. A row is checked against its version before anything is sent; a version that fails
is replaced by what the declaration says, within the same deadline; an answer is in the spool before the caller has it;
and copies for shadows leave after that, where nothing waits for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from airflow_ml.gateway.asking import Asker, Withheld, name_of
from airflow_ml.gateway.lines import Lines
from airflow_ml.gateway.log import PredictionLog
from airflow_ml.gateway.metrics import Metrics
from airflow_ml.gateway.records import Record
from airflow_ml.gateway.turns import Asked, Request, Turn, accept
from airflow_ml.lifecycle.errors import AirflowMLError, BadFields, NotReleasable, ServingError
from airflow_ml.lifecycle.routing import SHADOW, Route
from airflow_ml.serving.client import AsyncClient
from airflow_ml.spec import Model

_FIRST_SHARE = 0.5
"""Of the time that is left, for a version whose place another one can take."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said of one row.

    Attributes:
        entity: What it is about.
        probability: From the version, or the declared default.
        version: Who gave it; of a default, who should have.
        route: Whose turn it was.
        fallback: ``previous`` or ``default`` where that version did not answer.
    """

    entity: str
    probability: float
    version: int
    route: Route
    fallback: str | None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of a turn: a probability for each row or none, whose, and why not its version's own."""

    given: list[float] | None
    version: int
    fallback: str | None
    error: AirflowMLError | None


class Gateway:
    """Answers requests for one model.

    Args:
        model: The declaration.
        server: The model server.
        records: Where records go.
        metrics: What is counted.

    Attributes:
        lines: Who can be asked; None before there is a champion.
    """

    def __init__(self, model: Model, server: AsyncClient, records: PredictionLog, metrics: Metrics) -> None:
        self.model = model
        self.lines: Lines | None = None
        self._online = model.serving.online
        self._asker = Asker(model.name, server, metrics)
        self._records = records
        self._metrics = metrics
        self._shadows: set[asyncio.Task[None]] = set()

    def follow(self, lines: Lines | None) -> None:
        """Take what the release record says now; every version on trial gets a new one."""
        self.lines = lines
        self._asker.try_anew()

    async def predict(self, asked: Asked) -> list[Answer]:
        """Answer a request.

        Raises:
            BadFields: A row does not fit; nothing was asked.
            NotRouted: It asks for an experiment or a version that is not open.
            ServingError: No version answered, and the declaration has nothing in its place.
            NotReleasable: There is no champion yet.
        """
        began = time.perf_counter()
        lines = self.lines
        if lines is None:
            raise NotReleasable(
                "there is no champion that can be trusted",
                where=f"model {self.model.name}",
                remedy="release a version; the gateway finds it by itself, and its log says what is wrong with one",
            )
        seconds = self._online.deadline_ms / 1e3
        end = began + (seconds if asked.deadline_s is None else min(seconds, asked.deadline_s))
        request = accept(asked, lines, self.model.name, self.model.features.entity)
        if len(request.turns) == 1:
            found = [await self._taken(request, request.turns[0], end)]
        else:
            found = await asyncio.gather(*(self._taken(request, turn, end) for turn in request.turns))
        answers = self._record(request, found, (time.perf_counter() - began) * 1e3)
        self._copy(request)
        return answers

    async def drain(self, seconds: float) -> None:
        """Wait for the copies that are under way."""
        if self._shadows:
            await asyncio.wait(self._shadows, timeout=seconds)

    async def _taken(self, request: Request, turn: Turn, end: float) -> _Outcome:
        """What is said of a turn's rows: by its version, or by what the declaration puts in its place."""
        chosen, rows, lines = turn.route, len(turn.places), request.lines
        before = lines.before(chosen.version) if self._online.fallback == "previous" else None
        error: AirflowMLError
        if turn.unfit is None:
            left = end - time.perf_counter()
            seconds = left if before is None else left * _FIRST_SHARE
            try:
                given = await self._asker.attempt(chosen, lines.routing.stable, turn.columns, rows, seconds)
                return _Outcome(given, chosen.version, None, None)
            except ServingError as failed:
                error = failed
        else:
            error = turn.unfit
        self._asker.failed(chosen.arm, chosen.version, error)
        if isinstance(self._online.fallback, float):
            return _Outcome([self._online.fallback] * rows, chosen.version, "default", error)
        if before is not None:
            left = end - time.perf_counter()
            try:
                given = await self._asker.ask(chosen.arm, before, request.columns(turn.places, before), rows, left)
                return _Outcome(given, before, "previous", error)
            except (ServingError, BadFields) as failed:
                self._asker.failed(chosen.arm, before, failed)
        return _Outcome(None, chosen.version, None, error)

    def _record(self, request: Request, found: Sequence[_Outcome], latency_ms: float) -> list[Answer]:
        """Write what happened, and give the answers in the order of the rows.

        Raises:
            ServingError: Rows have none.
        """
        answers: dict[int, Answer] = {}
        for turn, outcome in zip(request.turns, found, strict=True):
            how = "failed" if outcome.given is None else "fallback" if outcome.fallback else "answered"
            self._count(turn.route, how, len(turn.places))
            for index, place in enumerate(turn.places):
                given = None if outcome.given is None else outcome.given[index]
                self._write(request, place, turn.route, outcome, given, latency_ms)
                if given is not None:
                    answers[place] = Answer(
                        request.entities[place], given, outcome.version, turn.route, outcome.fallback
                    )
        failed = next((outcome.error for outcome in found if outcome.given is None), None)
        if failed is not None:
            raise failed
        return [answers[place] for place in range(len(request.asked.rows))]

    def _count(self, chosen: Route, how: str, rows: int) -> None:
        self._metrics.predictions.labels(self.model.name, chosen.arm, str(chosen.version), how).inc(rows)

    def _write(
        self, request: Request, place: int, chosen: Route, outcome: _Outcome, given: float | None, ms: float
    ) -> None:
        text, digest = request.inputs[place]
        self._records.write(
            Record(
                request_id=request.asked.request_id,
                row=place,
                entity=request.entities[place],
                at=time.time_ns() // 1000,
                model_version=outcome.version,
                label=request.lines.labels.get(outcome.version),
                arm=chosen.arm,
                experiment=chosen.experiment,
                probability=given,
                fallback=outcome.fallback,
                error=None if outcome.error is None else name_of(outcome.error),
                latency_ms=ms,
                inputs=text if self._online.log_inputs else None,
                inputs_sha256=digest,
            )
        )

    def _copy(self, request: Request) -> None:
        """Send copies of what went to ``stable`` and its arms; nobody waits for them."""
        asked = request.asked
        if asked.experiment is not None or asked.alpha is not None:
            return
        for version in request.lines.routing.shadow:
            task = asyncio.create_task(self._shadow(request, version))
            self._shadows.add(task)
            task.add_done_callback(self._shadows.discard)

    async def _shadow(self, request: Request, version: int) -> None:
        began = time.perf_counter()
        chosen, places = Route(SHADOW, version), range(len(request.asked.rows))
        error: AirflowMLError | None = None
        given: list[float] | None = None
        try:
            columns = request.columns(places, version)
            seconds = self._online.deadline_ms / 1e3
            stable = request.lines.routing.stable
            given = await self._asker.attempt(chosen, stable, columns, len(places), seconds)
        except Withheld:
            self._metrics.shadows_dropped.labels(self.model.name).inc()
            return
        except (ServingError, BadFields) as failed:
            error = failed
            self._asker.failed(SHADOW, version, failed)
        self._count(chosen, "failed" if given is None else "answered", len(places))
        outcome = _Outcome(given, version, None, error)
        latency_ms = (time.perf_counter() - began) * 1e3
        for place in places:
            self._write(request, place, chosen, outcome, given[place] if given else None, latency_ms)
