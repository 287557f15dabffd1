"""What both protocols share: what a caller asks for beside its features, what it gets, and what an error is to it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from airflow_ml.gateway.core import Answer
from airflow_ml.gateway.inputs import Row
from airflow_ml.gateway.turns import Asked
from airflow_ml.lifecycle.errors import AirflowMLError, BadFields, InputError, NotRouted, ServingError
from airflow_ml.serving.errors import ServingTimeout
from airflow_ml.spec import Model

REQUEST_ID = "x-request-id"
EXPERIMENT = "x-experiment"
VERSION = "x-model-version"
"""Headers of a request, metadata of a call."""

INTERNAL = "the gateway failed; its log says how"
"""To a caller, when it is the fault of neither the request nor a version."""

_LONGEST_ID = 128
_LONGEST_VERSION = 18
"""Digits; more need not fit into the 64 bits that a version has, nor into a number that Python reads from text."""


class Told(NamedTuple):
    """An error as a caller sees it: HTTP status, gRPC code, and why it is the caller's own fault, if it is."""

    status: int
    code: str
    reason: str | None


_TOLD: tuple[tuple[type[AirflowMLError], Told], ...] = (
    (BadFields, Told(400, "INVALID_ARGUMENT", "fields")),
    (NotRouted, Told(400, "INVALID_ARGUMENT", "route")),
    (InputError, Told(400, "INVALID_ARGUMENT", "malformed")),
    (ServingTimeout, Told(504, "DEADLINE_EXCEEDED", None)),
    (ServingError, Told(503, "UNAVAILABLE", None)),
)
_NOT_NOW = Told(503, "UNAVAILABLE", None)


def told(error: AirflowMLError) -> Told:
    """What an error is to a caller."""
    return next((found for kind, found in _TOLD if isinstance(error, kind)), _NOT_NOW)


def asked_of(
    rows: Sequence[Row], headers: Mapping[str, str], version: int | None = None, deadline_s: float | None = None
) -> Asked:
    """A request with what its headers say.

    Raises:
        NotRouted: The version is no number that one could have.
    """
    given = headers.get(VERSION)
    if given is not None:
        if not given.isascii() or not given.isdigit() or len(given) > _LONGEST_VERSION:
            raise NotRouted(f"{given[:40]!r} is no version", where=VERSION, remedy="send its number")
        version = int(given)
    request_id = headers.get(REQUEST_ID, "")[:_LONGEST_ID] or os.urandom(16).hex()
    return Asked(rows, request_id, headers.get(EXPERIMENT), version, deadline_s)


def row_of(answer: Answer, model: Model) -> dict[str, Any]:
    """An answer by name, as both protocols give it."""
    return {
        model.features.entity: answer.entity,
        "probability": answer.probability,
        "decision": answer.probability >= model.scoring.threshold,
        "model_version": answer.version,
        "arm": answer.route.arm,
        "experiment": answer.route.experiment,
        "fallback": answer.fallback,
    }
