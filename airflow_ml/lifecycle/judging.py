"""Is a new version fit for more traffic? Statistics over what two arms did; pure, and safe to ask again and again.

A canary is looked at every few seconds, and a test that is made for one look calls good versions bad when it is looked
at a hundred times. What takes a version back is therefore bounded by a confidence *sequence*: bounds that hold at all
times at once, so that one may stop at the first look that decides. Shares (errors, slow answers) have to be proved good
by the same bounds. To prove that scores and ROC AUC are within their limits would take many times the requests: as soon
as there are as many as declared, it is enough that they are not seen beyond them (scores), or not proved to be (AUC).
What one look cannot decide is held, until the declared wait is over; then the observed numbers decide, and too few
requests decide against the version.
"""

import math
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from airflow_ml.lifecycle.distributions import (
    Histogram,
    auc,
    auc_by_chance,
    auc_variance,
    ks,
    ks_by_chance,
    psi,
    psi_bounds,
    psi_by_chance,
    share_bounds,
)
from airflow_ml.spec.base import Frozen
from airflow_ml.spec.serving import Judging

_P99 = 0.99


class Verdict(StrEnum):
    """What follows from a look."""

    PROMOTE = "promote"
    HOLD = "hold"
    ROLL_BACK = "roll_back"


class ArmStats(Frozen):
    """What one arm did in a window.

    Attributes:
        requests: All of them.
        errors: Those that were not answered, or not with a finite number.
        latency_ms: Of the answered ones.
        scores: Their probabilities.
        positives: Probabilities of those whose label came and was positive; None where no label came.
        negatives: The same for negative ones.
    """

    requests: int = Field(ge=0)
    errors: int = Field(ge=0)
    latency_ms: Histogram
    scores: Histogram
    positives: Histogram | None = None
    negatives: Histogram | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.errors > self.requests:
            raise ValueError(f"{self.errors} errors in {self.requests} requests")
        return self


class Finding(Frozen):
    """One criterion: what was seen, within which bounds, and what it says.

    Attributes:
        criterion: ``errors``, ``latency``, ``scores`` or ``performance``.
        verdict: Of this criterion alone.
        stable: The stable arm's number; None where there is none.
        candidate: The new version's.
        limit: Where it becomes too bad.
        low: Lower bound of what decides.
        high: Upper bound.
        text: In words.
    """

    criterion: str
    verdict: Verdict
    stable: float | None
    candidate: float | None
    limit: float | None
    low: float | None
    high: float | None
    text: str


class Judgement(Frozen):
    """A look at two arms.

    Attributes:
        verdict: What follows.
        findings: One by one.
        stable_requests: Behind the stable numbers.
        candidate_requests: Behind the new version's.
        waited_s: For how long the candidate has had this share of the traffic.
        reason: In words.
        starved: Rolled back for want of requests alone: the same requests, replayed to both versions, would tell more.
        replayed: Logged requests that both versions were asked for this look, in place of live ones.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    stable_requests: int
    candidate_requests: int
    waited_s: float
    reason: str
    starved: bool = False
    replayed: int = 0

    @property
    def numbers(self) -> dict[str, float | None]:
        """The evidence, for messages and tables."""
        found: dict[str, float | None] = {
            "candidate_requests": self.candidate_requests,
            "stable_requests": self.stable_requests,
            "replayed": self.replayed,
            "waited_s": self.waited_s,
        }
        for finding in self.findings:
            found[f"{finding.criterion}_candidate"] = finding.candidate
            found[f"{finding.criterion}_stable"] = finding.stable
            found[f"{finding.criterion}_limit"] = finding.limit
        return found


def judge(stable: ArmStats, candidate: ArmStats, waited_s: float, policy: Judging) -> Judgement:
    """Look at two arms.

    One criterion that is proved to be too bad is enough to roll back, at any time. All have to be proved good, on the
    declared number of requests, to promote before the wait is over.

    Args:
        stable: The arm of the champion.
        candidate: The arm of the new version, or its shadow.
        waited_s: For how long it has had this share.
        policy: What is declared.
    """
    alpha = (1 - policy.confidence) / 4  # four criteria share the risk
    late = waited_s >= policy.max_wait_s
    enough = candidate.requests >= policy.min_requests
    findings = (
        _errors(stable, candidate, alpha, late and enough, policy),
        _latency(stable, candidate, alpha, late and enough, policy),
        _scores(stable, candidate, alpha, late and enough, policy),
        *_performance(stable, candidate, alpha, policy),
    )
    bad = [finding for finding in findings if finding.verdict is Verdict.ROLL_BACK]
    open_ = [finding for finding in findings if finding.verdict is Verdict.HOLD]
    counted = f"{candidate.requests} of {policy.min_requests} requests"
    if bad:
        verdict, reason = Verdict.ROLL_BACK, "; ".join(finding.text for finding in bad)
    elif late and not enough:
        verdict, reason = Verdict.ROLL_BACK, f"{counted} in {waited_s:.0f} s: too few to judge by"
    elif not enough:
        verdict, reason = Verdict.HOLD, f"{counted} so far"
    elif open_:
        verdict, reason = Verdict.HOLD, "; ".join(finding.text for finding in open_)
    else:
        verdict, reason = Verdict.PROMOTE, "; ".join(finding.text for finding in findings)
    return Judgement(
        verdict=verdict,
        findings=findings,
        stable_requests=stable.requests,
        candidate_requests=candidate.requests,
        waited_s=waited_s,
        reason=reason,
        starved=late and not enough and not bad,
    )


def _errors(stable: ArmStats, candidate: ArmStats, alpha: float, last: bool, policy: Judging) -> Finding:
    """The candidate's share of errors may be above the stable one's by a declared margin."""
    ours = share_bounds(candidate.errors, candidate.requests, alpha / 2)
    theirs = share_bounds(stable.errors, stable.requests, alpha / 2)
    seen, before = _share(candidate.errors, candidate.requests), _share(stable.errors, stable.requests)
    limit = (before or 0.0) + policy.error_margin
    low, high = ours[0] - theirs[1], ours[1] - theirs[0]
    verdict = _sequential(low, high, policy.error_margin, None if seen is None else seen - (before or 0.0), last)
    return Finding(
        criterion="errors", verdict=verdict, stable=before, candidate=seen, limit=limit, low=low, high=high,
        text=f"errors {_percent(seen)}, stable {_percent(before)}, at most {policy.error_margin:.2%} more",
    )  # fmt: skip


def _latency(stable: ArmStats, candidate: ArmStats, alpha: float, last: bool, policy: Judging) -> Finding:
    """At most one answer in a hundred may be slower than the stable p99 times a declared factor."""
    before, seen = stable.latency_ms.quantile(_P99), candidate.latency_ms.quantile(_P99)
    total = candidate.latency_ms.total
    if not stable.latency_ms.total or not math.isfinite(before):
        text = "latency is not compared: the stable arm has no p99 within the histogram"
        return Finding(
            criterion="latency", verdict=Verdict.HOLD if not last else Verdict.PROMOTE, stable=None,
            candidate=seen if total and math.isfinite(seen) else None, limit=None, low=None, high=None, text=text,
        )  # fmt: skip
    wanted = before * policy.latency_factor
    # a limit between two of the histogram's is the next one; beyond the last, what lies there is too slow
    limit = next((value for value in candidate.latency_ms.limits if value >= wanted), candidate.latency_ms.limits[-1])
    slow = candidate.latency_ms.above(limit)
    low, high = share_bounds(slow, total, alpha)
    verdict = _sequential(low, high, 1 - _P99, _share(slow, total), last)
    return Finding(
        criterion="latency", verdict=verdict, stable=before, candidate=seen if math.isfinite(seen) else None,
        limit=limit, low=low, high=high,
        text=f"p99 {seen:g} ms, stable {before:g} ms; {_percent(_share(slow, total))} above {limit:g} ms",
    )  # fmt: skip


def _scores(stable: ArmStats, candidate: ArmStats, alpha: float, last: bool, policy: Judging) -> Finding:
    """The distribution of probabilities may move by a declared distance; what chance alone would move is taken off."""
    if policy.score_distance == "psi":
        distance, chance = psi(stable.scores, candidate.scores), psi_by_chance(stable.scores, candidate.scores)
        seen = max(distance - chance, 0.0)
        low, high = psi_bounds(stable.scores, candidate.scores, alpha)
    else:
        seen, chance = ks(stable.scores, candidate.scores), ks_by_chance(stable.scores, candidate.scores, alpha)
        low, high = seen - chance, seen + chance
    enough = min(stable.scores.total, candidate.scores.total) >= policy.min_requests
    if not enough and not last:
        verdict = Verdict.HOLD
    elif low > policy.score_limit or (last and seen > policy.score_limit):
        verdict = Verdict.ROLL_BACK
    else:
        verdict = Verdict.PROMOTE if seen <= policy.score_limit else Verdict.HOLD
    name = policy.score_distance.upper()
    return Finding(
        criterion="scores", verdict=verdict, stable=None, candidate=seen, limit=policy.score_limit, low=low,
        high=high if math.isfinite(high) else None,
        text=f"scores moved by {seen:.3f} ({name}, at most {policy.score_limit:g})",
    )  # fmt: skip


def _performance(stable: ArmStats, candidate: ArmStats, alpha: float, policy: Judging) -> tuple[Finding, ...]:
    """Where enough labels came: ROC AUC may be below the stable one's by a margin. Else there is no finding."""
    sides = [(arm.positives, arm.negatives) for arm in (stable, candidate)]
    found = [(auc(p, n), auc_variance(p, n)) for p, n in sides if p and n and p.total and n.total]
    labels = [p.total + n.total for p, n in sides if p and n]
    if len(found) < 2 or min(labels) < policy.min_labels:
        return ()
    (before, before_variance), (seen, seen_variance) = found
    reach = auc_by_chance(before_variance + seen_variance, alpha)
    loss = before - seen
    low, high = loss - reach, loss + reach
    verdict = Verdict.ROLL_BACK if low > policy.auc_margin else Verdict.PROMOTE
    return (
        Finding(
            criterion="performance", verdict=verdict, stable=before, candidate=seen, limit=before - policy.auc_margin,
            low=low, high=high,
            text=f"ROC AUC {seen:.3f}, stable {before:.3f}, at most {policy.auc_margin:g} less ({min(labels)} labels)",
        ),
    )  # fmt: skip


def _sequential(low: float, high: float, limit: float, seen: float | None, last: bool) -> Verdict:
    """Too bad, good, or open, by bounds that hold at all times; at the last look, by what was seen."""
    if low > limit:
        return Verdict.ROLL_BACK
    if high <= limit:
        return Verdict.PROMOTE
    if not last:
        return Verdict.HOLD
    return Verdict.PROMOTE if seen is not None and seen <= limit else Verdict.ROLL_BACK


def _share(hits: int, trials: int) -> float | None:
    return hits / trials if trials else None


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.2%}"
