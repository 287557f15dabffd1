"""The decision table, and what must hold for every history."""

from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ml.lifecycle.observations import ColumnDrift, Observation
from airflow_ml.lifecycle.retraining import LedgerEntry, decide, training_window, unsettled
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Budget, Model, Monitoring, Split
from airflow_ml.spec.training import Horovod
from tests.support.models import small_model

END = date(2013, 9, 15)


def model(**policy) -> Model:
    defaults = {"min_roc_auc": 0.6, "cooldown": 14, "budget": Budget(retrainings=2, period=60)}
    return small_model(
        training=Horovod(window=60, split=Split(validation=7, test=7)), monitoring=Monitoring(**(defaults | policy))
    )


def saw(end: date = END, **changes) -> Observation:
    fields = {
        "model": "small",
        "window": Window.ending(end, 7),
        "model_version": 1,
        "rows": 2000,
        "labelled": 1900,
        "coverage": 0.95,
        "data_drift": "pass",
        "prediction_drift": "pass",
        "target_drift": "pass",
        "performance": "pass",
        "labelled_until": end,
    }
    return Observation(**(fields | changes))


def drifted(end: date = END, **changes) -> Observation:
    columns = tuple(
        ColumnDrift(
            column=name,
            status=status,
            method="wasserstein",
            distance=distance,
            threshold=0.5,
            missing=0.0,
            missing_reference=0.0,
        )
        for name, status, distance in (("temp", "fail", 0.7), ("rate", "fail", 1.4), ("seats", "pass", 0.01))
    )
    return saw(end, **({"data_drift": "fail", "drifted_share": 2 / 3, "columns": columns} | changes))


def retrained(days_before: int, end: date = END) -> LedgerEntry:
    then = end - timedelta(days=days_before)
    return LedgerEntry(window_end=then, decision="retrain", training=Window.ending(then, 60))


CASES = {
    "nothing drifted": (saw(), (), "healthy"),
    "data drifted": (drifted(), (), "retrain"),
    "performance fell": (saw(performance="fail", roc_auc=0.55), (), "retrain"),
    "prediction drift alone does not count unless declared": (saw(prediction_drift="fail"), (), "healthy"),
    "target drift alone does not count unless declared": (saw(target_drift="fail"), (), "healthy"),
    "labels are too few, data is fine": (saw(performance="not_judged"), (), "healthy"),
    "labels are too few, data drifted": (drifted(performance="not_judged"), (), "retrain"),
    "nothing can be judged": (saw(data_drift="not_judged", performance="not_judged"), (), "not_judged"),
    "broken input, and drifted": (drifted(broken=("column x is gone",)), (), "broken_input"),
    "broken input, and nothing drifted": (saw(broken=("column x is gone",)), (), "broken_input"),
    "broken input comes before everything": (drifted(broken=("gone",)), (retrained(1),), "broken_input"),
    "decided yesterday": (drifted(), (retrained(1),), "in_flight"),
    "as old as the label's lag": (drifted(), (retrained(2),), "in_flight"),
    "older than the lag": (drifted(), (retrained(3),), "cooling_down"),
    "last day of the cooldown": (drifted(), (retrained(14),), "cooling_down"),
    "the day after the cooldown": (drifted(), (retrained(15),), "retrain"),
    "budget used up": (drifted(), (retrained(20), retrained(40)), "no_budget"),
    "last day of the period": (drifted(), (retrained(20), retrained(59)), "no_budget"),
    "one left the period": (drifted(), (retrained(20), retrained(60)), "retrain"),
    "healthy windows are not held off": (saw(), (retrained(1),), "healthy"),
    "its own row does not count": (drifted(), (retrained(0),), "retrain"),
    "later rows do not count": (drifted(), (retrained(-5), retrained(-20)), "retrain"),
    "other decisions cost nothing": (
        drifted(),
        tuple(LedgerEntry(window_end=END - timedelta(days=n), decision="no_budget") for n in range(1, 9)),
        "retrain",
    ),
    "no label is known": (drifted(labelled_until=None), (), "not_judged"),
    "too few days to train on": (drifted(labelled_until=date(2013, 1, 14)), (), "not_judged"),
    "just enough days to train on": (drifted(labelled_until=date(2013, 1, 15)), (), "retrain"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_decision_table(name):
    seen, ledger, expected = CASES[name]
    decision = decide(seen, model(), ledger)
    assert decision.decision == expected
    assert decision.reasons
    assert (decision.training is not None) == (expected == "retrain")
    if decision.training:
        assert decision.training.run_id == "drift__2013-09-15"


def test_the_policy_says_which_tests_count():
    seen = saw(prediction_drift="fail", target_drift="fail", performance="fail")
    assert decide(seen, model(min_roc_auc=None), ()).decision == "healthy"
    assert decide(seen, model(min_roc_auc=None, on_prediction_drift=True), ()).decision == "retrain"
    assert decide(seen, model(min_roc_auc=None, on_target_drift=True), ()).decision == "retrain"


def test_reasons_name_the_evidence_farthest_first():
    reasons = decide(drifted(performance="fail", roc_auc=0.5512), model(), ()).reasons
    assert reasons == (
        "data drift: 2 of 3 columns (67%; the limit is 50%): rate, temp",
        "performance: ROC AUC 0.551 on 1900 labelled rows, below 0.6",
    )


def test_healthy_says_what_was_not_judged():
    decision = decide(saw(performance="not_judged", notes=("coverage 20%",)), model(), ())
    assert decision.reasons == ("passed: data_drift", "coverage 20%")


def test_training_ends_at_the_newest_label_and_begins_no_earlier_than_the_model():
    assert training_window(saw(), model()) == Window.of("2013-07-18", "2013-09-15")
    assert training_window(saw(labelled_until=date(2013, 9, 13)), model()) == Window.of("2013-07-16", "2013-09-13")
    assert training_window(saw(labelled_until=date(2013, 1, 20)), model()) == Window.of("2013-01-01", "2013-01-20")
    assert training_window(saw(labelled_until=date(2012, 12, 31)), model()) is None


@pytest.mark.parametrize("age", [1, 2, 3, 14])
def test_a_lost_trigger_is_named_again_while_it_holds_off_others(age):
    lost = retrained(age)
    (again,) = unsettled(model(), END, (retrained(40), lost))
    assert again.run_id == f"drift__{lost.window_end}"
    assert again.window == lost.training


def test_a_run_that_failed_does_not_block_its_model_for_ever():
    failed = retrained(15)
    decision = decide(drifted(), model(), (failed,))
    assert decision.decision == "retrain"
    assert unsettled(model(), END, (failed,)) == ()


def test_a_window_names_the_same_run_however_often_it_is_decided():
    first = decide(drifted(), model(), (retrained(30),))
    own = LedgerEntry(window_end=END, decision=first.decision, training=first.training.window)
    later = LedgerEntry(window_end=END + timedelta(days=16), decision="retrain", training=first.training.window)
    assert decide(drifted(), model(), (later, own, retrained(30))) == first


# Whatever a history looks like.

histories = st.lists(st.sampled_from(["healthy", "data", "performance", "broken", "unjudged"]), min_size=1, max_size=70)
policies = st.builds(
    lambda cooldown, n, period: model(cooldown=cooldown, budget=Budget(retrainings=n, period=period)),
    st.integers(0, 20),
    st.integers(0, 3),
    st.integers(1, 40),
)


def observe(kind: str, end: date) -> Observation:
    return {
        "healthy": lambda: saw(end),
        "data": lambda: drifted(end),
        "performance": lambda: saw(end, performance="fail"),
        "broken": lambda: drifted(end, broken=("the file is of another form",)),
        "unjudged": lambda: saw(end, data_drift="not_judged", performance="not_judged"),
    }[kind]()


def play(history, declared, start=date(2013, 6, 1)):
    """Decide a year day by day, as the live run does."""
    ledger, decisions = [], []
    for number, kind in enumerate(history):
        end = start + timedelta(days=number)
        decision = decide(observe(kind, end), declared, ledger)
        decisions.append((end, kind, decision))
        ledger.append(
            LedgerEntry(
                window_end=end,
                decision=decision.decision,
                training=decision.training.window if decision.training else None,
            )
        )
    return decisions, ledger


@settings(max_examples=200, deadline=None)
@given(histories, policies)
def test_budget_cooldown_and_lag_hold_in_every_history(history, declared):
    decisions, ledger = play(history, declared)
    started = [end for end, _, decision in decisions if decision.decision == "retrain"]
    policy = declared.monitoring
    for before, after in pairwise(started):
        assert (after - before).days > policy.cooldown
        assert (after - before).days > declared.label.lag
    for end, _, _ in decisions:
        period = Window.ending(end, policy.budget.period)
        assert sum(day in period for day in started) <= policy.budget.retrainings
    for _, kind, decision in decisions:
        if kind == "broken":
            assert decision.decision == "broken_input"
        if kind in {"healthy", "unjudged"}:
            assert decision.decision in {"healthy", "not_judged"}
        assert (decision.training is not None) == (decision.decision == "retrain")
    # A backfill of any window afterwards, with the whole ledger there, decides what the live run decided.
    for end, kind, decision in decisions:
        assert decide(observe(kind, end), declared, ledger[::-1]) == decision


@settings(max_examples=100, deadline=None)
@given(histories, policies)
def test_no_window_is_held_off_without_a_retraining_that_holds_it(history, declared):
    decisions, _ = play(history, declared)
    started: list[date] = []
    for end, _, decision in decisions:
        ages = [(end - day).days for day in started]
        if decision.decision == "in_flight":
            assert ages[-1] <= declared.label.lag
        if decision.decision == "cooling_down":
            assert declared.label.lag < ages[-1] <= declared.monitoring.cooldown
        if decision.decision == "no_budget":
            budget = declared.monitoring.budget
            assert sum(age < budget.period for age in ages) >= budget.retrainings
        if decision.training:
            started.append(end)
