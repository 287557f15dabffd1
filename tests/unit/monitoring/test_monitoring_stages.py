"""Stages monitor and decide on real tables: what is read, what is judged, and what a rerun does."""

import json
import shutil
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from airflow_ml.lifecycle.errors import DataBroken, MissingPartition, MissingResult
from airflow_ml.lifecycle.observations import Observation
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Budget
from airflow_ml.stages.runner import execute
from tests.unit.monitoring.conftest import REFERENCE, WEEK, rows, watched_model

pytestmark = pytest.mark.slow


def observation(result) -> Observation:
    return Observation.model_validate_json(Path(result.outputs["monitoring"].uri).read_text())


def test_a_healthy_week_from_tables_to_ledger(watch):
    watch.release()
    watch.week(rows(WEEK, seed=5))
    found = watch.monitor()
    seen = observation(found)
    assert seen.window == WEEK
    assert seen.reference == REFERENCE
    assert (seen.model_version, seen.rows, seen.labelled, seen.coverage) == (1, 2100, 2100, 1.0)
    assert (seen.data_drift, seen.performance) == ("pass", "pass")
    assert seen.labelled_until == WEEK.end
    assert found.metrics["roc_auc"] == pytest.approx(seen.roc_auc)
    assert set(found.reports) == {"drift", "performance"}
    assert Path(found.reports["drift"].uri).read_text().startswith("\n    <!DOCTYPE html>")
    assert {t["kind"] for t in json.loads(Path(found.outputs["tests"].uri).read_text())["performance"]} >= {"RocAuc"}

    decided = watch.decide()
    assert decided.summary["decision"] == "healthy"
    assert decided.summary["run_id"] is None
    row = watch.table("decisions").read().to_pylist()[0]
    assert (row["ds"], row["window_from"], row["window_to"]) == (WEEK.end, WEEK.start, WEEK.end)
    assert json.loads(row["reasons"]) == decided.summary["reasons"]
    assert Path(row["evidence"]).exists()


def test_one_day_means_the_window_that_ends_there_and_not_before_the_model(watch):
    watch.release()
    watch.week(rows(WEEK, seed=5))
    assert watch.monitor(Window.of(WEEK.end)).summary["window"] == {"from": "2013-07-01", "to": "2013-07-07"}
    first = Window.of("2013-01-01", "2013-01-03")
    watch.week(rows(first, seed=5))
    assert watch.monitor(Window.of(first.end)).summary["window"] == {"from": "2013-01-01", "to": "2013-01-03"}


def test_a_drifted_week_starts_a_training_and_a_rerun_says_the_same(watch):
    watch.release()
    watch.week(rows(WEEK, seed=5, shift=1.0))
    first = watch.decide()
    assert first.summary["decision"] == "retrain"
    assert first.summary["run_id"] == "drift__2013-07-07"
    assert first.summary["window"] == {"from": "2013-05-09", "to": "2013-07-07"}
    version = watch.table("decisions").snapshot().version
    assert watch.decide().reused
    # Even when the result was lost after the commit: the row says it.
    Path(first.uri).unlink()
    again = watch.decide()
    assert not again.reused
    assert {k: v for k, v in again.summary.items() if k not in {"built", "current"}} == {
        k: v for k, v in first.summary.items() if k not in {"built", "current"}
    }
    assert watch.table("decisions").snapshot().version == version


def test_the_days_after_a_retraining_are_held_off_and_name_its_run_again(watch):
    watch.release()
    watch.week(rows(WEEK, seed=5, shift=1.0))
    watch.decide()
    found = {}
    for number in (1, 2, 3, 14, 15, 16):
        day = WEEK.end + timedelta(days=number)
        watch.week(rows([day], seed=number, per_day=600, shift=1.0))
        found[number] = watch.decide(Window.of(day)).summary
    assert {number: summary["decision"] for number, summary in found.items()} == {
        1: "in_flight",
        2: "in_flight",
        3: "cooling_down",
        14: "cooling_down",
        15: "retrain",
        16: "in_flight",
    }
    assert found[1]["resend"] == [{"run_id": "drift__2013-07-07", "window": {"from": "2013-05-09", "to": "2013-07-07"}}]
    assert found[15]["run_id"] == "drift__2013-07-22"
    assert found[15]["resend"] == []
    assert found[16]["resend"][0]["run_id"] == "drift__2013-07-22"
    # Deciding an early window again, with the whole ledger there, finds what was decided.
    assert watch.decide(WEEK).summary["decision"] == "retrain"
    assert watch.decide(Window.of(WEEK.end + timedelta(days=1))).summary["decision"] == "in_flight"


def test_late_labels_are_judged_again_and_a_started_training_stands(watch):
    watch.model = watched_model(min_coverage=0.8)
    watch.release()
    drifted = rows(WEEK, seed=5, shift=1.0)
    watch.week(drifted, labelled=0.3)
    first = watch.decide()
    assert observation(watch.monitor()).performance == "not_judged"
    assert first.summary["decision"] == "retrain"
    # The upstream delivers the week again, and nothing has drifted in it.
    watch.week(rows(WEEK, seed=5), made_from="delivered again")
    assert observation(watch.monitor()).data_drift == "pass"
    later = watch.decide()
    assert later.summary["decision"] == "retrain"
    assert later.summary["run_id"] == first.summary["run_id"]
    assert later.summary["window"] == first.summary["window"]
    assert "decided before, and started" in later.summary["reasons"][-1]
    assert watch.decide().reused


def test_a_healthy_week_may_become_drifted_when_its_labels_arrive(watch):
    watch.release()
    frame = rows(WEEK, seed=5, skill=0.0)
    watch.week(frame, labelled=0.3)
    assert watch.decide().summary["decision"] == "healthy"
    watch.week(frame, labelled=1.0, made_from="labels arrived")
    decided = watch.decide()
    assert decided.summary["decision"] == "retrain"
    assert decided.summary["reasons"][0].startswith("performance: ROC AUC 0.")
    assert watch.table("decisions").read().num_rows == 1


def test_too_few_rows_are_not_judged_and_evidently_is_not_asked(watch):
    watch.release()
    watch.week(rows(WEEK, seed=5, per_day=20, shift=2.0))
    found = watch.monitor()
    assert "import evidently" not in found.timings
    assert found.summary["data_drift"] == "not_judged"
    assert "140 predictions" in found.summary["notes"][-1]
    assert "140 predictions" in Path(found.reports["drift"].uri).read_text()
    assert watch.decide().summary["decision"] == "not_judged"


def test_an_empty_night_is_not_judged(watch):
    watch.release()
    empty = rows(WEEK, seed=5).iloc[:0]
    for table in ("features", "raw", "predictions", "outcomes", "feedback"):
        frame = empty[["id", "ds"]].assign(
            probability=np.float32(0), decision=True, model_version=np.int64(1), arrived=True, label=True
        )
        watch.commit(table, frame, list(WEEK))
    assert watch.monitor().summary["model_version"] is None
    assert watch.decide().summary["decision"] == "not_judged"


def test_only_rows_of_the_newest_version_are_judged_against_its_reference(watch):
    watch.release(1)
    watch.release(2, rows(REFERENCE, seed=9, shift=1.0))
    days = list(WEEK)
    watch.week(rows(days[:4], seed=5, shift=1.0, skill=0.0), version=1)
    watch.week(rows(days[4:], seed=6, shift=1.0), version=2)
    seen = observation(watch.monitor())
    assert (seen.model_version, seen.rows) == (2, 900)
    assert seen.performance == "pass"
    assert seen.data_drift == "pass"
    assert seen.sampled["window"] == (2100, 2100)
    assert "1200 predictions of other versions are left out" in seen.notes


def test_columns_are_sampled_and_labels_are_not(watch):
    watch.model = watched_model(sample_rows=500)
    watch.release()
    watch.week(rows(WEEK, seed=5))
    seen = observation(watch.monitor())
    assert seen.sampled == {"window": (500, 2100), "reference": (500, 4200)}
    assert seen.labelled == 2100
    page = Path(watch.monitor().reports["drift"].uri).read_text()
    assert "500 of 2,100 rows" in page


def test_cancelled_entities_do_not_lower_the_coverage(watch):
    watch.release()
    frame = rows(WEEK, seed=5)
    frame.loc[frame.index % 3 == 0, "label"] = np.nan
    watch.week(frame)
    seen = observation(watch.monitor())
    assert seen.coverage == 1.0
    assert seen.labelled == 1400
    assert seen.performance == "pass"


def test_a_day_that_was_held_back_is_broken_input(watch):
    watch.release()
    days = list(WEEK)
    watch.week(rows([*days[:3], *days[4:]], seed=5, shift=1.0))
    watch.commit("raw", rows([days[3]])[["id", "ds"]], [days[3]])
    decided = watch.decide()
    assert decided.summary["decision"] == "broken_input"
    assert decided.summary["reasons"][0].startswith("2013-07-04: its raw partition is committed")
    assert decided.summary["run_id"] is None
    # When it is repaired, the window is judged again.
    watch.week(rows([days[3]], seed=7, shift=1.0))
    assert watch.decide().summary["decision"] == "retrain"


def test_a_newest_day_that_was_never_scored_is_broken_input_and_news_once(watch):
    watch.release()
    days = list(Window.of(WEEK.start, WEEK.end + timedelta(days=1)))
    watch.week(rows(days[:6], seed=5))
    watch.commit("raw", rows([days[6]])[["id", "ds"]], [days[6]])
    first = watch.decide().summary
    assert first["decision"] == "broken_input"
    assert first["news"] == first["reasons"]
    # The next day is sound, and its window still holds the broken one.
    watch.week(rows([days[7]], seed=6))
    second = watch.decide(Window.of(days[1], days[7])).summary
    assert second["decision"] == "broken_input"
    assert second["reasons"] == first["reasons"]
    assert second["news"] == []


def test_a_day_that_validation_refused_is_broken_input_until_it_is_delivered_again(watch):
    watch.release()
    frame = rows(WEEK, seed=5, shift=1.0)
    watch.week(frame)
    day = WEEK.start
    # Declared are `id` and `x`; the file of this day came again without `x`, after its features were built.
    watch.commit("raw", frame[["id", "ds"]], [day], made_from="a broken delivery")
    with pytest.raises(DataBroken):
        execute(watch.request("validate", Window.of(day)))
    decided = watch.decide()
    assert decided.summary["decision"] == "broken_input"
    assert decided.summary["reasons"][0].startswith("2013-07-01: validation refused it: ")
    assert "'x'" in decided.summary["reasons"][0]
    watch.commit("raw", frame[["id", "ds", "x"]], [day], made_from="delivered again")
    assert execute(watch.request("validate", Window.of(day))).summary["verdict"] in {"ok", "warnings"}
    assert watch.decide().summary["decision"] == "retrain"


def test_a_day_that_validation_refused_within_a_window_is_broken_input_and_its_neighbours_are_not(watch):
    watch.release()
    frame = rows(WEEK, seed=5, shift=1.0)
    watch.week(frame)
    watch.commit("raw", frame[["id", "ds", "x"]], list(WEEK), made_from="sound")
    execute(watch.request("validate", WEEK))
    day = WEEK.start + timedelta(days=4)
    watch.commit("raw", frame[["id", "ds"]], [day], made_from="a broken delivery")
    with pytest.raises(DataBroken):
        execute(watch.request("validate", WEEK))
    decided = watch.decide()
    assert decided.summary["decision"] == "broken_input"
    (reason,) = decided.summary["reasons"]
    assert reason.startswith(f"{day}: validation refused it: {day}: column 'x': ")
    # Delivered again and not validated yet: what was refused is not what is there now.
    watch.commit("raw", frame[["id", "ds", "x"]], [day], made_from="delivered again")
    assert watch.decide().summary["decision"] == "retrain"


def test_the_training_window_ends_at_the_newest_label_that_was_known_then(watch):
    watch.release()
    watch.week(rows(WEEK, seed=5, shift=1.0))
    later = Window.of(WEEK.end + timedelta(days=1), WEEK.end + timedelta(days=5))
    watch.week(rows(later, seed=6))
    assert watch.decide().summary["window"]["to"] == "2013-07-07"


def test_a_changed_policy_is_decided_again(watch):
    watch.release()
    watch.week(rows(WEEK, seed=5, shift=1.0))
    watch.model = watched_model(budget=Budget(retrainings=0, period=30))
    assert watch.decide().summary["decision"] == "no_budget"
    judged = watch.monitor()
    watch.model = watched_model(budget=Budget(retrainings=1, period=30))
    assert watch.monitor().fingerprint == judged.fingerprint
    assert watch.decide().summary["decision"] == "retrain"


def test_what_is_missing_is_said_with_its_remedy(watch):
    watch.release()
    with pytest.raises(MissingPartition, match="score first"):
        watch.monitor()
    watch.week(rows(WEEK, seed=5))
    with pytest.raises(MissingResult, match="airflow-ml run monitor small"):
        execute(watch.request("decide", WEEK))


def test_the_ledger_keeps_one_row_a_window(watch):
    watch.release()
    watch.week(rows(WEEK, seed=5))
    next_day = date(2013, 7, 8)
    watch.week(rows([next_day], seed=6))
    watch.decide()
    watch.decide(Window.of(next_day))
    ledger = watch.table("decisions").read().to_pylist()
    assert sorted(row["ds"] for row in ledger) == [WEEK.end, next_day]
    assert {row["model_version"] for row in ledger} == {1}


def test_without_feedback_drift_is_judged_and_performance_is_not(watch):
    watch.release()
    frame = rows(WEEK, seed=5, shift=1.0)
    watch.week(frame)
    shutil.rmtree(watch.table("feedback").path)
    seen = observation(watch.monitor())
    assert (seen.rows, seen.labelled, seen.coverage) == (2100, 0, 0.0)
    assert (seen.data_drift, seen.performance, seen.target_drift) == ("fail", "not_judged", "not_judged")
    assert watch.decide().summary["decision"] == "retrain"
