"""Gates open only for a finite number on enough rows on the right side of the threshold, and for nothing else."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ml.lifecycle.evaluation import ChampionEvaluation, Evaluation, Metric, Slice
from airflow_ml.lifecycle.gates import GateReport, GateResult, Servability, decide, judge, needs_server
from airflow_ml.spec.gates import (
    HIGHER_IS_BETTER,
    Gate,
    at_least,
    at_most,
    beats_champion,
    calibrated,
    each_slice,
    servable,
)

METRICS = ("roc_auc", "pr_auc", "log_loss", "brier", "precision", "recall")
GOOD_SERVER = Servability(
    max_abs_diff_grpc=1e-7, max_abs_diff_rest=1e-7, golden_rows=32, p50_latency_ms=2.0, p99_latency_ms=5.0, requests=200
)


def evaluation(**changes: Any) -> Evaluation:
    """A good model: AUC 0.8, losses 0.2, on 1000 rows."""
    metrics = {
        name: Metric(value=0.8 if name in HIGHER_IS_BETTER else 0.2, low=0.1, high=0.9, rows=1000) for name in METRICS
    }
    fields: dict[str, Any] = {
        "metrics": metrics,
        "ece": Metric(value=0.01, rows=1000),
        "rows": 1000,
        "positive_share": 0.2,
        "threshold": 0.5,
    }
    return Evaluation(**(fields | changes))


def with_metric(name: str, value: float | None, rows: int = 1000) -> Evaluation:
    return evaluation(metrics={**evaluation().metrics, name: Metric(value=value, rows=rows)})


def slices(*found: tuple[str, float | None, int]) -> tuple[Slice, ...]:
    return tuple(
        Slice(column="origin", value=value, rows=rows, metrics={"roc_auc": Metric(value=auc, rows=rows)})
        for value, auc, rows in found
    )


ALL_GATES: tuple[Gate, ...] = (
    at_least("roc_auc", 0.7),
    at_most("log_loss", 0.3),
    beats_champion("roc_auc", by=-0.01),
    each_slice("origin", "roc_auc", 0.6),
    calibrated(0.05),
    servable(max_p99_latency_ms=25),
    at_most("p99_latency_ms", 25),
)
GOOD = evaluation(
    slices=slices(("EWR", 0.75, 600), ("JFK", 0.7, 600)),
    champion=ChampionEvaluation(version=1, metrics={"roc_auc": Metric(value=0.79, rows=1000)}),
)


def verdict(gates: tuple[Gate, ...], found: Evaluation, server: Servability | None) -> GateReport:
    return judge(
        gates,
        found,
        server,
        model="m",
        evaluation_sha256="e",
        saved_model_sha256="s",
        training_fingerprint="t",
    )


def test_good_model_passes_every_kind_of_gate() -> None:
    report = verdict(ALL_GATES, GOOD, GOOD_SERVER)
    assert report.verdict == "passed"
    assert report.reasons == ()
    assert report.champion == 1
    assert all(result.observed is not None and result.rows > 0 for result in report.gates)


def test_no_gate_is_no_pass() -> None:
    assert verdict((), GOOD, GOOD_SERVER).verdict == "rejected"


def test_one_closed_gate_rejects_and_says_why() -> None:
    report = verdict((at_least("roc_auc", 0.7), at_least("pr_auc", 0.95)), GOOD, None)
    assert report.verdict == "rejected"
    assert report.reasons == ("at_least(pr_auc, 0.95): 0.8 < 0.95 on 1000 rows",)


not_numbers = st.sampled_from([None, math.nan, math.inf, -math.inf])
numbers = st.floats(-1, 2)


@given(gate=st.sampled_from([at_least("roc_auc", 0.0), at_most("roc_auc", 1.0)]), value=not_numbers)
def test_what_is_not_a_number_never_opens_a_threshold(gate: Gate, value: float | None) -> None:
    assert not decide(gate, with_metric("roc_auc", value), None).open


@given(value=not_numbers)
def test_what_is_not_a_number_never_opens_the_other_gates(value: float | None) -> None:
    metric = {"roc_auc": Metric(value=value, rows=1000)}
    champion = ChampionEvaluation(version=1, metrics=metric)
    no_champion = evaluation(metrics=metric)
    assert not decide(beats_champion("roc_auc", by=-10), evaluation(champion=champion), None).open
    assert not decide(
        beats_champion("roc_auc", by=-10), no_champion.model_copy(update={"champion": GOOD.champion}), None
    ).open
    assert not decide(beats_champion("roc_auc", by=-10), no_champion, None).open
    assert not decide(calibrated(1.0), evaluation(ece=Metric(value=value, rows=1000)), None).open
    mixed = evaluation(slices=slices(("EWR", 0.9, 900), ("JFK", value, 900)))
    assert not decide(each_slice("origin", "roc_auc", 0.0), mixed, None).open


@given(value=not_numbers, field=st.sampled_from(["max_abs_diff_grpc", "max_abs_diff_rest", "p99_latency_ms"]))
def test_what_is_not_a_number_never_makes_a_model_servable(value: float | None, field: str) -> None:
    server = GOOD_SERVER.model_copy(update={field: value})
    assert not decide(servable(tolerance=1.0, max_p99_latency_ms=1e9), GOOD, server).open


@given(threshold=st.floats(0, 1), value=numbers)
def test_a_threshold_is_open_on_its_own_side_and_at_itself(threshold: float, value: float) -> None:
    found = with_metric("roc_auc", value)
    assert decide(at_least("roc_auc", threshold), found, None).open == (value >= threshold)
    assert decide(at_most("roc_auc", threshold), found, None).open == (value <= threshold)


def test_a_threshold_that_is_not_a_number_never_opens() -> None:
    # A declaration refuses it; a report of an older package may still hold one.
    for gate in (at_least("roc_auc", 0.1), at_most("roc_auc", 0.9)):
        assert not decide(gate.model_copy(update={"threshold": math.nan}), GOOD, None).open


@given(one=numbers, other=numbers, threshold=st.floats(0, 1))
def test_a_better_metric_never_closes_a_gate(one: float, other: float, threshold: float) -> None:
    worse, better = sorted((one, other))
    gate = at_least("roc_auc", threshold)
    assert (
        decide(gate, with_metric("roc_auc", better), None).open
        >= decide(gate, with_metric("roc_auc", worse), None).open
    )
    gate = at_most("log_loss", threshold)
    assert (
        decide(gate, with_metric("log_loss", worse), None).open
        >= decide(gate, with_metric("log_loss", better), None).open
    )


@given(
    mine=st.floats(0, 1),
    more=st.floats(0, 1),
    theirs=st.floats(0, 1),
    by=st.floats(-1, 1),
    metric=st.sampled_from(METRICS),
)
def test_beating_the_champion_is_monotone_in_the_better_direction(
    mine: float, more: float, theirs: float, by: float, metric: str
) -> None:
    champion = ChampionEvaluation(version=1, metrics={metric: Metric(value=theirs, rows=1000)})

    def is_open(value: float) -> bool:
        found = with_metric(metric, value).model_copy(update={"champion": champion})
        return decide(beats_champion(metric, by=by), found, None).open

    low, high = sorted((mine, more))
    better, worse = (high, low) if metric in HIGHER_IS_BETTER else (low, high)
    assert is_open(better) >= is_open(worse)


@given(rows=st.integers(0, 99))
def test_too_few_rows_close(rows: int) -> None:
    result = decide(at_least("roc_auc", 0.1), with_metric("roc_auc", 0.99, rows), None)
    assert not result.open
    assert "fewer than 100" in result.reason


@pytest.mark.parametrize("gate", ALL_GATES, ids=str)
def test_nothing_evaluated_closes_every_gate(gate: Gate) -> None:
    nothing = Evaluation(
        metrics={}, ece=Metric(value=None, rows=0), rows=0, positive_share=0.0, threshold=0.5, champion=None
    )
    assert not decide(gate, nothing, None).open


def test_champion_on_other_rows_is_no_comparison() -> None:
    champion = ChampionEvaluation(version=1, metrics={"roc_auc": Metric(value=0.5, rows=999)})
    result = decide(beats_champion("roc_auc"), evaluation(champion=champion), None)
    assert not result.open
    assert "not the same rows" in result.reason


def test_first_model_has_nobody_to_beat() -> None:
    assert decide(beats_champion("roc_auc", by=0.1), evaluation(), None).open


def test_first_model_needs_enough_rows_for_the_next_one_to_beat() -> None:
    result = decide(beats_champion("roc_auc", min_rows=100), with_metric("roc_auc", 0.8, rows=99), None)
    assert not result.open
    assert "99 rows, fewer than 100" in result.reason


def test_small_slices_are_not_judged_but_cannot_all_be_small() -> None:
    gate = each_slice("origin", "roc_auc", 0.6)
    assert decide(gate, evaluation(slices=slices(("EWR", 0.7, 600), ("LGA", 0.1, 499))), None).open
    assert not decide(gate, evaluation(slices=slices(("LGA", 0.9, 499))), None).open
    assert not decide(gate, evaluation(), None).open
    closed = decide(gate, evaluation(slices=slices(("EWR", 0.7, 600), ("JFK", 0.5, 700))), None)
    assert not closed.open
    assert closed.reason.startswith("JFK: 0.5 < 0.6")


def test_loss_slices_are_judged_in_their_own_direction() -> None:
    found = tuple(
        Slice(column="origin", value=v, rows=600, metrics={"log_loss": Metric(value=loss, rows=600)})
        for v, loss in (("EWR", 0.2), ("JFK", 0.5))
    )
    assert decide(each_slice("origin", "log_loss", 0.5), evaluation(slices=found), None).observed == 0.5
    assert not decide(each_slice("origin", "log_loss", 0.4), evaluation(slices=found), None).open


@pytest.mark.parametrize(
    "server",
    [
        None,
        Servability(error="the server did not load it"),
        GOOD_SERVER.model_copy(update={"max_abs_diff_rest": 0.1}),
        GOOD_SERVER.model_copy(update={"golden_rows": 0}),
        GOOD_SERVER.model_copy(update={"requests": 0}),
        GOOD_SERVER.model_copy(update={"p99_latency_ms": 26.0}),
    ],
)
def test_bad_servers_close(server: Servability | None) -> None:
    result: GateResult = decide(servable(max_p99_latency_ms=25), GOOD, server)
    assert not result.open
    assert result.reason


def test_only_server_gates_need_a_server() -> None:
    assert not needs_server(ALL_GATES[:5])
    assert needs_server([servable()])
    assert needs_server([at_most("p99_latency_ms", 5)])


def test_report_survives_json_and_equal_reports_have_equal_bytes() -> None:
    report = verdict(ALL_GATES, GOOD, GOOD_SERVER)
    assert GateReport.model_validate_json(report.model_dump_json()) == report
    assert verdict(ALL_GATES, GOOD, GOOD_SERVER).model_dump_json() == report.model_dump_json()
