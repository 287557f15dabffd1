"""Metrics of a binary classifier with bootstrap intervals, in numpy.

Rows are sorted by score once; a bootstrap sample is then a count for each row, and every metric is a few cumulative
sums or one product with the matrix of counts. 200 samples of 30,000 rows take well under a second.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from airflow_ml.lifecycle.evaluation import Bin

Array = np.ndarray[Any, Any]

RESAMPLES = 200
BINS = 10
_CHUNK_VALUES = 4_000_000
_CLIP = 1e-7
_CURVE_POINTS = 300


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % bootstrap interval.

    Attributes:
        value: None when it cannot be computed.
        low: 2.5 % quantile over samples; None when there is no value.
        high: 97.5 % quantile.
        reason: Why there is no value.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Curves:
    """Points of the ROC and precision-recall curves, from the highest threshold down; recall is the true positive rate.

    Attributes:
        false_positive_rate: [points + 1], from 0.
        true_positive_rate: [points + 1], from 0.
        precision: [points].
    """

    false_positive_rate: Array
    true_positive_rate: Array
    precision: Array


def roc_auc(labels: Array, scores: Array) -> float | None:
    """Area under the ROC curve; ties count half. None with one class only.

    Args:
        labels: [n] of 0 and 1.
        scores: [n], any monotone score.
    """
    if not len(labels) or not np.isfinite(scores).all():
        return None
    value = _Sorted(labels, scores, threshold=0.5).roc_auc(np.ones((1, len(labels))))[0]
    return None if np.isnan(value) else float(value)


def evaluate(
    labels: Array, probabilities: Array, threshold: float, seed: int, resamples: int = RESAMPLES
) -> dict[str, Estimate]:
    """All metrics of some rows.

    Args:
        labels: [n] of 0 and 1.
        probabilities: [n] in [0, 1].
        threshold: Probabilities at or above it are positive decisions.
        seed: Of the bootstrap.
        resamples: Bootstrap samples; 0 gives no intervals.

    Returns:
        roc_auc, pr_auc (average precision), log_loss, brier, ece, precision, recall.
    """
    problem = _problem(labels, probabilities)
    if problem:
        return {name: Estimate(None, reason=problem) for name in _METRICS}
    rows = _Sorted(labels, probabilities, threshold)
    values = {name: function(rows, np.ones((1, rows.count)))[0] for name, function in _METRICS.items()}
    drawn: dict[str, list[Array]] = {name: [] for name in _METRICS}
    for counts in _bootstrap(rows.count, resamples, seed):
        for name, function in _METRICS.items():
            drawn[name].append(function(rows, counts))
    return {name: _estimate(name, value, drawn[name]) for name, value in values.items()}


def calibration(labels: Array, probabilities: Array, bins: int = BINS) -> list[Bin]:
    """Rows in bins of about equal size, by rising probability; rows of equal probability share one."""
    if _problem(labels, probabilities):
        return []
    rows = _Sorted(labels, probabilities, threshold=0.5, bins=bins)
    starts = rows.bin_starts
    ends = np.append(starts[1:], rows.count)
    sums = [np.add.reduceat(values, starts) for values in (rows.scores, rows.labels)]
    return [
        Bin(
            low=float(rows.scores[end - 1]),
            high=float(rows.scores[start]),
            rows=int(end - start),
            predicted=float(predicted / (end - start)),
            observed=float(observed / (end - start)),
        )
        for start, end, predicted, observed in reversed(list(zip(starts, ends, *sums, strict=True)))
    ]


def curves(labels: Array, scores: Array) -> Curves | None:
    """ROC and precision-recall curves; None with one class only."""
    if _problem(labels, scores) or len(np.unique(labels)) < 2:
        return None
    rows = _Sorted(labels, scores, threshold=0.5)
    true, false = (counts[0] for counts in rows.positives(np.ones((1, rows.count))))
    keep = np.unique(np.linspace(0, len(true) - 1, _CURVE_POINTS).astype(int))
    true, false = true[keep], false[keep]
    return Curves(
        false_positive_rate=np.append(0, false / false[-1]),
        true_positive_rate=np.append(0, true / true[-1]),
        precision=true / (true + false),
    )


class _Sorted:
    """Rows by falling score, with what every metric needs."""

    def __init__(self, labels: Array, scores: Array, threshold: float, bins: int = BINS) -> None:
        order = np.argsort(-scores, kind="stable")
        self.scores = scores[order].astype(np.float64)
        self.labels = labels[order].astype(np.float64)
        self.count = len(order)
        # Rows of equal score are one point of every curve: the last of each group.
        self.group_ends = np.append(np.flatnonzero(np.diff(self.scores)), self.count - 1)
        self.decided = (self.scores >= threshold).astype(np.float64)
        clipped = np.clip(self.scores, _CLIP, 1 - _CLIP)
        self.losses = -(self.labels * np.log(clipped) + (1 - self.labels) * np.log1p(-clipped))
        self.squares = (self.scores - self.labels) ** 2
        # Bins of about equal size that never divide rows of equal score.
        group_starts = np.append(0, self.group_ends[:-1] + 1)
        wanted = (np.arange(bins) * self.count) // bins
        self.bin_starts = np.unique(group_starts[np.searchsorted(group_starts, wanted, side="right") - 1])

    def positives(self, counts: Array) -> tuple[Array, Array]:
        """True and false positives at each distinct score, from the highest down: [samples, groups] each."""
        true = np.cumsum(counts * self.labels, axis=1)[:, self.group_ends]
        false = np.cumsum(counts * (1 - self.labels), axis=1)[:, self.group_ends]
        return true, false

    def roc_auc(self, counts: Array) -> Array:
        true, false = self.positives(counts)
        steps = np.diff(false, axis=1, prepend=0)
        heights = (true + np.concatenate([np.zeros((len(true), 1)), true[:, :-1]], axis=1)) / 2
        return _divide((steps * heights).sum(axis=1), true[:, -1] * false[:, -1])

    def pr_auc(self, counts: Array) -> Array:
        true, false = self.positives(counts)
        precision = np.divide(true, true + false, out=np.zeros_like(true), where=(true + false) > 0)
        return _divide((np.diff(true, axis=1, prepend=0) * precision).sum(axis=1), true[:, -1])

    def ece(self, counts: Array) -> Array:
        gaps = np.add.reduceat(counts * (self.scores - self.labels), self.bin_starts, axis=1)
        return _divide(np.abs(gaps).sum(axis=1), counts.sum(axis=1))


_METRICS: dict[str, Callable[[_Sorted, Array], Array]] = {
    "roc_auc": _Sorted.roc_auc,
    "pr_auc": _Sorted.pr_auc,
    "log_loss": lambda rows, counts: counts @ rows.losses / counts.sum(axis=1),
    "brier": lambda rows, counts: counts @ rows.squares / counts.sum(axis=1),
    "ece": _Sorted.ece,
    "precision": lambda rows, counts: _divide(counts @ (rows.decided * rows.labels), counts @ rows.decided),
    "recall": lambda rows, counts: _divide(counts @ (rows.decided * rows.labels), counts @ rows.labels),
}

_WHY_NOT = {
    "precision": "no row has a probability at or above the threshold",
    "recall": "no row is positive",
    "pr_auc": "no row is positive",
    "roc_auc": "only one class among the rows",
}


def _bootstrap(rows: int, resamples: int, seed: int) -> "list[Array] | Any":
    """Counts of each row in bootstrap samples, [samples, rows], a few samples at a time: memory stays flat."""
    generator = np.random.default_rng(seed)
    size = max(1, _CHUNK_VALUES // rows)
    for start in range(0, resamples, size):
        samples = min(size, resamples - start)
        drawn = generator.integers(0, rows, (samples, rows)) + rows * np.arange(samples)[:, None]
        yield np.bincount(drawn.ravel(), minlength=samples * rows).reshape(samples, rows).astype(np.float64)


def _estimate(name: str, value: float, drawn: list[Array]) -> Estimate:
    if np.isnan(value):
        return Estimate(None, reason=_WHY_NOT[name])
    samples = np.concatenate(drawn) if drawn else np.empty(0)
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return Estimate(float(value))
    low, high = np.quantile(samples, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))


def _problem(labels: Array, probabilities: Array) -> str:
    if not len(labels):
        return "no rows"
    if not np.isfinite(probabilities).all():
        return f"{int((~np.isfinite(probabilities)).sum())} probabilities are not finite"
    return ""


def _divide(numerator: Array, denominator: Array) -> Array:
    """NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)
