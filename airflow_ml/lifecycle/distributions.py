"""Distributions of what an arm did, as histograms, and how far two of them lie apart.

Histograms can be counted batch by batch and are small, however many requests there were. Bounds hold at all times at
once: whoever looks again and again may stop at the first look that decides. Those of shares do by a mixture; those of
distances and of the AUC by `era`: samples are divided into eras by their size, each with a part of the risk, and in an
era nothing strays further than at its beginning (convex distances and U-statistics are reverse submartingales).

Source: Robbins, "Statistical methods related to the law of the iterated logarithm", 1970 (the mixture used here)
Source: Howard et al., "Time-uniform, nonparametric, nonasymptotic confidence sequences", 2021
Source: Manole and Ramdas, "Martingale methods for sequential estimation of convex functionals and divergences", 2023
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from pydantic import Field, model_validator

from airflow_ml.spec.base import Frozen

_SMOOTHING = 0.5
_STEPS_OF_BISECTION = 60
_GROWTH = 1.25
"""Of a sample within an era."""


class Histogram(Frozen):
    """Counts of values in buckets.

    Attributes:
        limits: Rising upper limits; a value equal to a limit lies below it.
        counts: One more than limits: the last bucket is open.
    """

    limits: tuple[float, ...] = Field(min_length=1)
    counts: tuple[int, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.counts) != len(self.limits) + 1:
            raise ValueError(f"{len(self.limits)} limits need {len(self.limits) + 1} counts, got {len(self.counts)}")
        if list(self.limits) != sorted(set(self.limits)) or not all(map(math.isfinite, self.limits)):
            raise ValueError("limits have to rise, and be finite")
        if any(count < 0 for count in self.counts):
            raise ValueError("counts cannot be negative")
        return self

    @classmethod
    def of(cls, values: Iterable[float], limits: Sequence[float]) -> Self:
        """Count values; what is no number counts nowhere."""
        counts = [0] * (len(limits) + 1)
        for value in values:
            if not math.isnan(value):
                counts[bisect_left(limits, value)] += 1
        return cls(limits=tuple(limits), counts=tuple(counts))

    @property
    def total(self) -> int:
        """How many values there are."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """The upper limit of the bucket in which the quantile lies; infinity in the open one."""
        wanted, seen = share * self.total, 0
        for limit, count in zip(self.limits, self.counts, strict=False):
            seen += count
            if seen >= wanted and self.total:
                return limit
        return math.inf

    def above(self, limit: float) -> int:
        """How many values are greater than ``limit``, which has to be one of `limits`."""
        return sum(c for c, low in zip(self.counts[1:], self.limits, strict=True) if low >= limit)


def share_bounds(hits: int, trials: int, alpha: float) -> tuple[float, float]:
    """Bounds of a probability that hold for all numbers of trials at once, with probability 1 − `alpha`.

    The likelihood of the data, averaged over a Beta(½, ½) of probabilities, divided by their likelihood under the true
    one, is a martingale that begins at one: it reaches 1/alpha with a probability of at most alpha. The bounds enclose
    the probabilities for which it has not.

    Args:
        hits: How often it happened.
        trials: Of how many.
        alpha: Risk.

    Source: https://projecteuclid.org/journals/annals-of-mathematical-statistics/volume-41/issue-5 (Robbins, 1970)
    """
    if not trials:
        return 0.0, 1.0
    averaged = _log_beta(hits + 0.5, trials - hits + 0.5) - _log_beta(0.5, 0.5)

    def excluded(share: float) -> bool:
        return averaged - _log_likelihood(hits, trials, share) >= -math.log(alpha)

    seen = hits / trials
    low = _bisect(0.0, seen, excluded) if hits else 0.0
    high = 1.0 - _bisect(0.0, 1.0 - seen, lambda rest: excluded(1.0 - rest)) if hits < trials else 1.0
    return low, high


def _bisect(outside: float, inside: float, excluded: Callable[[float], bool]) -> float:
    """The border between what is excluded and what is not."""
    for _ in range(_STEPS_OF_BISECTION):
        middle = (outside + inside) / 2
        if excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _log_likelihood(hits: int, trials: int, share: float) -> float:
    misses = trials - hits
    if (hits and share <= 0) or (misses and share >= 1):
        return -math.inf
    return (hits * math.log(share) if hits else 0.0) + (misses * math.log1p(-share) if misses else 0.0)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def era(size: float, alpha: float) -> tuple[float, float]:
    """The era of a sample: its size at the beginning, and −ln of the part of `alpha` that it may spend.

    The parts, 1/(1·2), 1/(2·3), 1/(3·4) …, add up to one, however many eras there are.
    """
    number = int(math.log(max(size, 1.0), _GROWTH))
    return _GROWTH**number, math.log((number + 1) * (number + 2) / alpha)


def psi(expected: Histogram, actual: Histogram) -> float:
    """Population stability index of two histograms with the same limits; empty buckets count as half a value.

    Raises:
        ValueError: the limits differ.
    """
    p, q = _shares(expected, actual)
    return math.fsum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))


def psi_by_chance(expected: Histogram, actual: Histogram) -> float:
    """What the index of two samples of one distribution is on average: (k − 1)(1/n + 1/m) for k buckets.

    Source: Yurdakul and Naranjo, "Statistical properties of the population stability index", 2020
    """
    if not expected.total or not actual.total:
        return 0.0
    return _freedom(expected, actual) * (1 / expected.total + 1 / actual.total)


def psi_bounds(expected: Histogram, actual: Histogram, alpha: float) -> tuple[float, float]:
    """Bounds of the index of two distributions; either is wrong at any time with a probability of at most `alpha`.

    Near to each other, the index of two samples times nm/(n + m) is chi-squared with k − 1 degrees of freedom, and not
    central by the index of their distributions. The bounds invert the tails of that.

    Source: Birgé, "An alternative point of view on Lepski's method", 2001, lemma 8.1
    """
    if not expected.total or not actual.total:
        return 0.0, math.inf
    size, x = era(1 / (1 / expected.total + 1 / actual.total), alpha)
    freedom, seen = _freedom(expected, actual), size * psi(expected, actual)
    # Upper tail: seen ≤ d + λ + 2√((d + 2λ)x) + 2x; lower: seen ≥ d + λ − 2√((d + 2λ)x); each for √(d + 2λ).
    low = max(math.sqrt(max(2 * seen - freedom, 0.0)) - 2 * math.sqrt(x), 0.0)
    high = 2 * math.sqrt(x) + math.sqrt(max(4 * x + 2 * seen - freedom, 0.0))
    return max(low**2 - freedom, 0.0) / (2 * size), max(high**2 - freedom, 0.0) / (2 * size)


def _freedom(expected: Histogram, actual: Histogram) -> int:
    return max(sum(bool(a or b) for a, b in zip(expected.counts, actual.counts, strict=True)) - 1, 0)


def ks(expected: Histogram, actual: Histogram) -> float:
    """Kolmogorov-Smirnov distance: the largest difference of the cumulative shares, seen at the limits.

    Raises:
        ValueError: the limits differ.
    """
    if expected.limits != actual.limits:
        raise ValueError("histograms with different limits cannot be compared")
    if not expected.total or not actual.total:
        return 0.0
    worst, p, q = 0.0, 0, 0
    for a, b in zip(expected.counts, actual.counts, strict=True):
        p, q = p + a, q + b
        worst = max(worst, abs(p / expected.total - q / actual.total))
    return worst


def ks_by_chance(expected: Histogram, actual: Histogram, alpha: float) -> float:
    """How far the distance of two samples may ever lie from that of their distributions, but for a risk of `alpha`.

    Source: https://en.wikipedia.org/wiki/Dvoretzky–Kiefer–Wolfowitz_inequality
    """

    def strays(side: Histogram) -> float:
        size, x = era(side.total, alpha / 4)
        return math.sqrt(x / (2 * size))

    return math.fsum(strays(side) if side.total else 1.0 for side in (expected, actual))


def auc(positives: Histogram, negatives: Histogram) -> float:
    """ROC AUC from two histograms of scores; two values in one bucket count as equal.

    Raises:
        ValueError: the limits differ.
    """
    if positives.limits != negatives.limits:
        raise ValueError("histograms with different limits cannot be compared")
    below = 0
    won = 0.0
    for positive, negative in zip(positives.counts, negatives.counts, strict=True):
        won += positive * (below + negative / 2)
        below += negative
    return won / (positives.total * negatives.total)


def auc_variance(positives: Histogram, negatives: Histogram) -> float:
    """Variance of the AUC.

    Source: Hanley and McNeil, "The meaning and use of the area under a ROC curve", 1982
    """
    area, p, n = auc(positives, negatives), positives.total, negatives.total
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    return (area * (1 - area) + (p - 1) * (q1 - area**2) + (n - 1) * (q2 - area**2)) / (p * n)


def auc_by_chance(variance: float, alpha: float) -> float:
    """How far an AUC, or a difference of two, may ever lie from the true one to one side, but for a risk of `alpha`.

    Args:
        variance: Of it, now.
        alpha: Risk.
    """
    if not variance:
        return 0.0
    information, x = era(1 / variance, alpha)
    return math.sqrt(2 * x / information)


def _shares(expected: Histogram, actual: Histogram) -> tuple[Sequence[float], Sequence[float]]:
    if expected.limits != actual.limits:
        raise ValueError("histograms with different limits cannot be compared")
    kept = [i for i, (a, b) in enumerate(zip(expected.counts, actual.counts, strict=True)) if a or b]

    def smoothed(side: Histogram) -> list[float]:
        counts = [side.counts[i] or _SMOOTHING for i in kept]
        total = math.fsum(counts)
        return [count / total for count in counts]

    return (smoothed(expected), smoothed(actual)) if kept else ((1.0,), (1.0,))
