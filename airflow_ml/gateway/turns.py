"""A request's rows by who answers them, checked against the version that shall. Pure.

A row is checked before anything is sent. What only an arm's version does not take is not the caller's fault: that turn
is marked unfit, and somebody else answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from airflow_ml.gateway.inputs import Columns, Problem, Row, bad_fields, columns_of, entity_of, problem
from airflow_ml.gateway.lines import Lines
from airflow_ml.gateway.records import features_json
from airflow_ml.lifecycle.errors import BadFields
from airflow_ml.lifecycle.routing import ALPHA, Route, route

MAX_ROWS = 1000
"""Of one request: online is one entity or a screenful of them; more belongs into a nightly run."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller wants.

    Attributes:
        rows: Raw features by name, each with its entity.
        request_id: In the log and in the answer.
        experiment: That it takes part in.
        alpha: Version that it asks for.
        deadline_s: Of the caller, if it has one; the shorter one holds.
    """

    rows: Sequence[Row]
    request_id: str
    experiment: str | None = None
    alpha: int | None = None
    deadline_s: float | None = None


@dataclass(frozen=True)
class Request:
    """What is worked out of a request once, for its answer, its records and its copies.

    Attributes:
        asked: As it came.
        lines: What held then.
        entity: Name of the entity's field.
        entities: Of each row.
        turns: Who answers which rows.
    """

    asked: Asked
    lines: Lines
    entity: str
    entities: Sequence[str]
    turns: Sequence[Turn]

    @cached_property
    def inputs(self) -> list[tuple[str, str]]:
        """The features of each row as JSON, and its hash."""
        return [
            features_json({name: value for name, value in row.items() if name != self.entity})
            for row in self.asked.rows
        ]

    def columns(self, places: Sequence[int], version: int) -> Columns:
        """Rows as a version takes them.

        Raises:
            BadFields: They do not fit.
        """
        return _columns(self.asked, self.lines, self.entity, places, version)


@dataclass(frozen=True, slots=True)
class Turn:
    """Rows of one request that one version shall answer.

    Attributes:
        route: To it.
        places: Of the rows in the request.
        columns: The rows as it takes them.
        unfit: Why it does not take them; then somebody else answers.
    """

    route: Route
    places: list[int]
    columns: Columns
    unfit: BadFields | None = None


def accept(asked: Asked, lines: Lines, model: str, entity: str) -> Request:
    """Find who answers each row, and check it.

    Args:
        asked: The request.
        lines: What holds.
        model: Name.
        entity: Name of the entity's field.

    Raises:
        BadFields: Rows do not fit; all that is wrong with them.
        NotRouted: It asks for an experiment or a version that is not open.
    """
    if not 0 < len(asked.rows) <= MAX_ROWS:
        raise bad_fields([problem(0, "instances", f"are {len(asked.rows)}; send 1 to {MAX_ROWS}")])
    entities: list[str] = []
    places: dict[Route, list[int]] = {}
    problems: list[Problem] = []
    for place, row in enumerate(asked.rows):
        try:
            key = entity_of(row, entity)
        except ValueError as error:
            problems.append(problem(place, entity, str(error)))
            continue
        entities.append(key)
        chosen = route(lines.routing, model, key, experiment=asked.experiment, alpha=asked.alpha)
        places.setdefault(chosen, []).append(place)
    turns: list[Turn] = []
    for chosen, found in places.items():
        try:
            turns.append(_turn(asked, lines, entity, chosen, found))
        except BadFields as unfit:
            problems += unfit.fields
    if problems:
        raise bad_fields(problems)
    return Request(asked, lines, entity, entities, turns)


def _turn(asked: Asked, lines: Lines, entity: str, chosen: Route, places: list[int]) -> Turn:
    try:
        return Turn(chosen, places, _columns(asked, lines, entity, places, chosen.version))
    except BadFields as unfit:
        if chosen.arm == ALPHA or chosen.version == lines.routing.stable:
            raise
        _columns(asked, lines, entity, places, lines.routing.stable)
        return Turn(chosen, places, {}, unfit)


def _columns(asked: Asked, lines: Lines, entity: str, places: Sequence[int], version: int) -> Columns:
    rows = [asked.rows[place] for place in places]
    return columns_of(rows, places, lines.releases[version].signature, lines.features, entity)
