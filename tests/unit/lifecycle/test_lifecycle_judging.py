"""Verdicts on a new version: right, with numbers, and not more often wrong because somebody looks more often."""

import math
import random
from collections.abc import Iterator
from itertools import pairwise
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from airflow_ml.lifecycle.judging import ArmStats, Verdict, judge
from airflow_ml.spec.serving import Judging

LATENCIES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
SCORES = tuple(i / 10 for i in range(1, 10))
POLICY = Judging(min_requests=300, max_wait_s=600, error_margin=0.02, min_labels=400)


def arm(requests=1000, errors=0, slow=0.002, scores=(0.3, 0.15), auc_shift=None, seed=0):
    """Latencies of 1..10 ms with a share of `slow` ones at 60; scores by mean and spread, cut to [0, 1]."""
    draw = random.Random(seed)
    answered = requests - errors
    times = [60.0 if draw.random() < slow else draw.choice((1.5, 1.5, 1.5, 4.0)) for _ in range(answered)]
    drawn = [min(max(draw.gauss(*scores), 0.0), 1.0) for _ in range(answered)]
    labelled = {}
    if auc_shift is not None:
        labelled = {
            "positives": Histogram.of([draw.gauss(0.5 + auc_shift, 0.15) for _ in range(requests // 2)], SCORES),
            "negatives": Histogram.of([draw.gauss(0.5, 0.15) for _ in range(requests // 2)], SCORES),
        }
    return ArmStats(
        requests=requests, errors=errors, latency_ms=Histogram.of(times, LATENCIES), scores=Histogram.of(drawn, SCORES),
        **labelled,
    )  # fmt: skip


def found(judgement, criterion):
    return next(finding for finding in judgement.findings if finding.criterion == criterion)


# --- verdicts -------------------------------------------------------------------------------------------------------


def test_two_of_the_same_are_promoted_with_their_numbers():
    judgement = judge(arm(8000, 8), arm(4000, 4, seed=1), 60, POLICY)
    assert judgement.verdict is Verdict.PROMOTE
    assert [finding.criterion for finding in judgement.findings] == ["errors", "latency", "scores"]
    for finding in judgement.findings:
        assert finding.low is not None
        assert finding.low <= finding.high <= finding.limit
        assert finding.text in judgement.reason
    assert (judgement.stable_requests, judgement.candidate_requests, judgement.waited_s) == (8000, 4000, 60)


def test_before_the_declared_minimum_nobody_is_promoted():
    judgement = judge(arm(5000), arm(299), 60, POLICY)
    assert judgement.verdict is Verdict.HOLD
    assert judgement.reason == "299 of 300 requests so far"


def test_too_few_requests_in_the_declared_time_decide_against():
    judgement = judge(arm(5000), arm(299), 600, POLICY)
    assert judgement.verdict is Verdict.ROLL_BACK
    assert judgement.reason == "299 of 300 requests in 600 s: too few to judge by"
    assert judgement.starved
    assert not judge(arm(5000), arm(299, errors=200), 600, POLICY).starved, "bad, not few"


@pytest.mark.parametrize(
    ("bad", "criterion"),
    [
        ({"errors": 100}, "errors"),
        ({"slow": 0.2}, "latency"),
        ({"scores": (0.6, 0.15)}, "scores"),
    ],
)
@pytest.mark.parametrize("distance", ["psi", "ks"])
def test_each_way_to_be_bad_is_found_and_named(bad, criterion, distance):
    policy = POLICY.model_copy(update={"score_distance": distance})
    judgement = judge(arm(20_000), arm(1000, seed=1, **bad), 60, policy)
    assert judgement.verdict is Verdict.ROLL_BACK
    assert [f.criterion for f in judgement.findings if f.verdict is Verdict.ROLL_BACK] == [criterion]
    assert judgement.reason == found(judgement, criterion).text


def test_a_version_that_answers_nothing_goes_at_once():
    """Not after the minimum of requests: forty failures in a row are proof enough."""
    judgement = judge(arm(5000), arm(40, errors=40), 5, POLICY)
    assert judgement.verdict is Verdict.ROLL_BACK
    assert "errors 100.00%" in judgement.reason


def test_what_is_open_is_held_until_the_time_is_over_and_then_seen_numbers_decide():
    stable = arm(20_000, 20)
    unsure, worse = arm(300, 3, seed=1), arm(300, 9, seed=1)
    for candidate in (unsure, worse):
        assert judge(stable, candidate, 60, POLICY).verdict is Verdict.HOLD
    assert judge(stable, unsure, 600, POLICY).verdict is Verdict.PROMOTE  # 1.0 %, allowed are 2.1
    assert judge(stable, worse, 600, POLICY).verdict is Verdict.ROLL_BACK  # 3.0 %


def test_labels_count_when_enough_of_them_came():
    stable, good = arm(4000, auc_shift=0.2), arm(4000, auc_shift=0.2, seed=1)
    worse, few = arm(4000, auc_shift=0.05, seed=1), arm(380, auc_shift=0.05, seed=1)
    assert found(judge(stable, good, 60, POLICY), "performance").verdict is Verdict.PROMOTE
    judgement = judge(stable, worse, 60, POLICY)
    assert judgement.verdict is Verdict.ROLL_BACK
    assert "ROC AUC" in judgement.reason
    assert "performance" not in {finding.criterion for finding in judge(stable, few, 60, POLICY).findings}


def test_nothing_at_all_is_no_proof():
    empty = arm(0)
    assert judge(empty, empty, 0, POLICY).verdict is Verdict.HOLD
    assert judge(empty, empty, 600, POLICY).verdict is Verdict.ROLL_BACK


# --- looking again and again ----------------------------------------------------------------------------------------


def counted(requests, errors):
    """An arm of which only the errors matter."""
    answered = requests - errors
    return ArmStats(
        requests=requests,
        errors=errors,
        latency_ms=Histogram(limits=LATENCIES, counts=(answered, *[0] * len(LATENCIES))),
        scores=Histogram(limits=SCORES, counts=(answered, *[0] * len(SCORES))),
    )


def looks(stable_rate, candidate_rate, seed, rounds=60, a_round=50):
    """The verdicts on shares of errors, looked at after each round."""
    draw = random.Random(seed)
    ours = theirs = 0
    verdicts = []
    for n in range(1, rounds + 1):
        ours += sum(draw.random() < candidate_rate for _ in range(a_round))
        theirs += sum(draw.random() < stable_rate for _ in range(a_round * 4))
        candidate, stable = counted(a_round * n, ours), counted(a_round * n * 4, theirs)
        verdict = found(judge(stable, candidate, 1, POLICY), "errors").verdict
        verdicts.append(verdict)
        if verdict is not Verdict.HOLD:
            break
    return verdicts


def test_looking_sixty_times_does_not_make_a_good_version_bad():
    """At the border, where a test for one look would be wrong in a third of all rollouts."""
    wrong = sum(looks(0.01, 0.03, seed)[-1] is Verdict.ROLL_BACK for seed in range(25))
    assert wrong <= 1


def test_a_bad_version_is_found_in_few_looks():
    ended = [looks(0.01, 0.15, seed) for seed in range(10)]
    assert all(verdicts[-1] is Verdict.ROLL_BACK for verdicts in ended)
    assert sum(map(len, ended)) / len(ended) <= 10


@settings(max_examples=200, deadline=None)
@given(hits=st.integers(0, 400), misses=st.integers(0, 4000), alpha=st.floats(1e-4, 0.2))
def test_bounds_enclose_what_was_seen_and_narrow(hits, misses, alpha):
    trials = hits + misses
    low, high = share_bounds(hits, trials, alpha)
    seen = hits / trials if trials else 0.5
    assert 0 <= low <= seen <= high <= 1
    wider = share_bounds(hits, trials, alpha / 10)
    assert wider[0] <= low
    assert wider[1] >= high
    if trials:
        narrower = share_bounds(hits * 10, trials * 10, alpha)
        assert narrower[1] - narrower[0] <= high - low


def test_bounds_hold_at_all_times_at_once():
    """Of 100 sequences of 500 draws with looks after each: those that ever leave their bounds are at most alpha."""
    alpha, left = 0.1, 0
    for seed in range(100):
        draw, hits = random.Random(seed), 0
        for n in range(1, 501):
            hits += draw.random() < 0.05
            if n % 10 == 0:
                low, high = share_bounds(hits, n, alpha)
                if not low <= 0.05 <= high:
                    left += 1
                    break
    assert left <= alpha * 100


def growing(mean: float, seed: int, looks: int = 60, a_look: int = 25) -> Iterator[Histogram]:
    """Scores as they come, of a spread of 0.25."""
    draw, counts = random.Random(seed), [0] * (len(SCORES) + 1)
    for _ in range(looks):
        drawn = Histogram.of([draw.gauss(mean, 0.25) for _ in range(a_look)], SCORES)
        counts = [a + b for a, b in zip(counts, drawn.counts, strict=True)]
        yield Histogram(limits=SCORES, counts=tuple(counts))


@pytest.mark.parametrize("distance", ["psi", "ks"])
def test_a_version_that_is_the_same_is_never_taken_back_by_its_scores(distance):
    """From a handful of requests on, where an index of ten buckets is above its limit more often than not."""
    policy = Judging(min_requests=25, score_distance=distance)
    for seed in range(40):
        for before, after in zip(growing(0.5, seed), growing(0.5, -1 - seed), strict=True):
            stable, candidate = (arm(0).model_copy(update={"scores": scores}) for scores in (before, after))
            assert found(judge(stable, candidate, 1, policy), "scores").verdict is not Verdict.ROLL_BACK


def shares(mean: float) -> list[float]:
    """Of the buckets, of scores of a spread of 0.25."""
    up_to = [0.0, *(NormalDist(mean, 0.25).cdf(limit) for limit in SCORES), 1.0]
    return [high - low for low, high in pairwise(up_to)]


def test_bounds_of_distances_and_of_the_auc_hold_at_all_times_at_once():
    """Of 60 sequences with 60 looks each, those that ever leave their bounds are at most alpha."""
    alpha, sequences = 0.1, 60
    p, q = shares(0.5), shares(0.6)
    index = math.fsum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    distance = max(abs(math.fsum(p[:n]) - math.fsum(q[:n])) for n in range(len(p)))
    area = math.fsum(b * (math.fsum(p[:n]) + p[n] / 2) for n, b in enumerate(q))
    left = dict.fromkeys(("psi low", "psi high", "ks", "auc low", "auc high"), 0)
    for seed in range(sequences):
        seen = dict.fromkeys(left, False)
        for a, b in zip(growing(0.5, seed), growing(0.6, -1 - seed), strict=True):
            low, high = psi_bounds(a, b, alpha)
            strays = auc_by_chance(auc_variance(b, a), alpha)
            seen["psi low"] |= low > index
            seen["psi high"] |= high < index
            seen["ks"] |= abs(ks(a, b) - distance) > ks_by_chance(a, b, alpha)
            seen["auc low"] |= auc(b, a) - strays > area
            seen["auc high"] |= auc(b, a) + strays < area
        for name, away in seen.items():
            left[name] += away
    assert max(left.values()) <= alpha * sequences, left


def test_bounds_of_a_distance_enclose_it_and_narrow():
    a, b = Histogram.of([0.15] * 600 + [0.85] * 400, SCORES), Histogram.of([0.15] * 400 + [0.85] * 600, SCORES)
    wide = psi_bounds(a, b, 0.01)
    assert wide[0] < psi(a, b) < wide[1]
    more = [Histogram(limits=SCORES, counts=tuple(100 * count for count in side.counts)) for side in (a, b)]
    narrow = psi_bounds(*more, 0.01)
    assert wide[0] < narrow[0] < psi(a, b) < narrow[1] < wide[1]
    assert narrow[1] - narrow[0] < 0.05
    assert psi_bounds(a, Histogram.of([], SCORES), 0.01) == (0.0, math.inf)


# --- distances ------------------------------------------------------------------------------------------------------


def test_distances_by_hand():
    a = Histogram(limits=(0.5,), counts=(50, 50))
    b = Histogram(limits=(0.5,), counts=(80, 20))
    assert psi(a, b) == pytest.approx(0.3 * math.log(0.8 / 0.5) - 0.3 * math.log(0.2 / 0.5))
    assert ks(a, b) == pytest.approx(0.3)
    assert psi(a, a) == ks(a, a) == 0.0
    assert psi_by_chance(a, b) == pytest.approx(1 / 100 + 1 / 100)
    with pytest.raises(ValueError, match="different limits"):
        psi(a, Histogram(limits=(0.6,), counts=(1, 1)))


def test_auc_is_that_of_pairs():
    draw = random.Random(3)
    positives, negatives = ([draw.gauss(m, 0.2) for _ in range(300)] for m in (0.6, 0.4))
    fine = tuple(i / 1000 for i in range(-500, 1500))
    pairs = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives) / 300**2
    assert auc(Histogram.of(positives, fine), Histogram.of(negatives, fine)) == pytest.approx(pairs, abs=1e-3)
    assert 0 < auc_variance(Histogram.of(positives, SCORES), Histogram.of(negatives, SCORES)) < 0.001


def test_quantiles_and_what_lies_above():
    times = Histogram.of([1.0] * 98 + [15.0] * 2, LATENCIES)
    assert times.quantile(0.5) == 1.0
    assert times.quantile(0.99) == 20.0
    assert times.above(10.0) == 2
    assert times.above(20.0) == 0
    assert Histogram.of([1e9], LATENCIES).quantile(0.99) == math.inf
    assert Histogram.of([1.0, math.nan, 1.1], (1.0, 2.0)).counts == (1, 1, 0)


@pytest.mark.parametrize(
    ("limits", "counts"),
    [((1.0,), (1,)), ((2.0, 1.0), (0, 0, 0)), ((1.0,), (-1, 0)), ((math.inf,), (0, 0)), ((), (1,))],
)
def test_what_is_no_histogram(limits, counts):
    with pytest.raises(ValueError, match=r"limits|counts"):
        Histogram(limits=limits, counts=counts)
    with pytest.raises(ValueError, match="errors in"):
        arm(1).model_validate(arm(1).model_dump() | {"errors": 2})
