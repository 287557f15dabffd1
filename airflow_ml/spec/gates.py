"""Gates: thresholds that a model has to pass before it can be released. The decision itself is `lifecycle.gates`."""

import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from airflow_ml.spec.base import Frozen

HIGHER_IS_BETTER = frozenset({"roc_auc", "pr_auc", "precision", "recall"})
"""Metrics that grow when a model gets better; all others (losses, latencies, errors) shrink."""

METRICS = ("roc_auc", "pr_auc", "log_loss", "brier", "ece", "precision", "recall")
"""Metrics of the test split, of its slices and of the champion."""

LATENCIES = ("p50_latency_ms", "p99_latency_ms")
"""Metrics that come from a server and not from the test split."""


def _range(metric: str) -> tuple[float, float]:
    """What a metric can be: losses and latencies have no upper bound, all others are shares."""
    return 0.0, math.inf if metric == "log_loss" or metric in LATENCIES else 1.0


def _of_rows(value: str) -> str:
    if value not in METRICS:
        raise ValueError(f"{value!r} is not a metric of the test split; use one of {', '.join(METRICS)}")
    return value


def _of_rows_or_server(value: str) -> str:
    known = METRICS + LATENCIES
    if value not in known:
        raise ValueError(f"{value!r} is not a metric that is computed; use one of {', '.join(known)}")
    return value


RowMetric = Annotated[str, AfterValidator(_of_rows)]
AnyMetric = Annotated[str, AfterValidator(_of_rows_or_server)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
"""NaN would close a gate for ever, and an infinite bound would open it for ever."""


class _Threshold(Frozen):
    """A metric and its bound."""

    metric: AnyMetric
    threshold: Finite

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        low, high = _range(self.metric)
        if not low <= self.threshold <= high:
            bounds = "0 or more" if high == math.inf else f"{low:g} to {high:g}"
            raise ValueError(
                f"threshold: {self.threshold:g} is outside what {self.metric} can be, so the gate would say the same "
                f"of every model; choose {bounds}"
            )
        return self


class AtLeast(_Threshold):
    """``metric >= threshold`` on the test split, over at least ``min_rows`` rows."""

    kind: Literal["at_least"] = "at_least"
    min_rows: int = Field(default=100, ge=1)


class AtMost(_Threshold):
    """``metric <= threshold``."""

    kind: Literal["at_most"] = "at_most"
    min_rows: int = Field(default=100, ge=1)


class BeatsChampion(Frozen):
    """The metric beats the champion's on the *same* rows by at least ``by`` (negative: may be that much worse).

    Open when there is no champion.
    """

    kind: Literal["beats_champion"] = "beats_champion"
    metric: RowMetric
    by: Finite = 0.0
    min_rows: int = Field(default=100, ge=1)


class EachSlice(_Threshold):
    """``metric`` reaches the threshold in every slice value of ``column`` with ``min_rows`` rows or more.

    A smaller slice is reported and not judged; when every slice is smaller, the gate is closed.
    """

    kind: Literal["each_slice"] = "each_slice"
    column: str
    metric: RowMetric
    min_rows: int = Field(default=500, ge=1)


class Calibrated(Frozen):
    """Expected calibration error is at most ``max_error``."""

    kind: Literal["calibrated"] = "calibrated"
    max_error: float = Field(default=0.05, gt=0, le=1)
    min_rows: int = Field(default=100, ge=1)


class Servable(Frozen):
    """A real model server loads the model and answers the golden requests with the right numbers.

    Attributes:
        tolerance: Largest absolute difference of a probability.
        max_p99_latency_ms: Bound for one-row requests over gRPC, or None.
    """

    kind: Literal["servable"] = "servable"
    tolerance: float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    max_p99_latency_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)


Gate = Annotated[AtLeast | AtMost | BeatsChampion | EachSlice | Calibrated | Servable, Field(discriminator="kind")]


def at_least(metric: str, threshold: float, min_rows: int = 100) -> AtLeast:
    """``metric >= threshold`` on the test split."""
    return AtLeast(metric=metric, threshold=threshold, min_rows=min_rows)


def at_most(metric: str, threshold: float, min_rows: int = 100) -> AtMost:
    """``metric <= threshold`` on the test split."""
    return AtMost(metric=metric, threshold=threshold, min_rows=min_rows)


def beats_champion(metric: str, by: float = 0.0, min_rows: int = 100) -> BeatsChampion:
    """Better than the champion on the same rows by at least ``by``."""
    return BeatsChampion(metric=metric, by=by, min_rows=min_rows)


def each_slice(column: str, metric: str, threshold: float, min_rows: int = 500) -> EachSlice:
    """``metric`` reaches ``threshold`` in every slice of ``column`` that is large enough."""
    return EachSlice(column=column, metric=metric, threshold=threshold, min_rows=min_rows)


def calibrated(max_error: float = 0.05) -> Calibrated:
    """Expected calibration error is at most ``max_error``."""
    return Calibrated(max_error=max_error)


def servable(tolerance: float = 1e-4, max_p99_latency_ms: float | None = None) -> Servable:
    """A real model server answers the golden requests rightly, and fast enough."""
    return Servable(tolerance=tolerance, max_p99_latency_ms=max_p99_latency_ms)
