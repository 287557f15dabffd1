"""The real loop, small: real scheduler, triggerer, API server, Spark, Horovod, TensorFlow, MLflow and Evidently."""

import time
from datetime import date

import pytest

from airflow_ml.examples.flights.demo.loop import Calendar, Loop
from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.windows import Window
from tests.system.dags.small_flights import small

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(1200)]

NIGHTS = Window.of("2013-02-15", "2013-02-17")
DAYS = Calendar(history=Window.of("2013-01-01", "2013-02-14"), nights=NIGHTS, watched=(date(2013, 2, 17),), after=1)
DATA_COLUMNS = ["flight_id", "ds", "probability", "decision", "model_version", "release"]


@pytest.fixture(scope="module")
def loop(deployment):
    """The loop, played once."""
    played = Loop(
        deployment.rest,
        deployment.environment,
        deployment.base,
        f"127.0.0.1:{deployment.addresses.rest}",
        calendar=DAYS,
        model=small,
    )
    played.play()
    return played


@pytest.fixture(scope="module")
def predictions(loop, deployment):
    return LakeTable(deployment.base / "lake/flights/predictions")


def test_every_stage_of_the_loop_happened(loop):
    names = {stage.name.rpartition(": ")[2] for stage in loop.summary.stages}
    assert names >= {
        *("ingest", "ingest_outcomes", "validate", "build_features", "build_training_set", "train", "evaluate"),
        *("export", "check_gates", "register", "release", "join_feedback", "monitor", "decide_retraining"),
    }
    assert loop.summary.nights_scored == len(NIGHTS) + DAYS.after


def test_drift_started_the_retraining_of_its_window(loop, deployment):
    assert loop.summary.drift["verdict"] == "retrain"
    assert loop.summary.retraining["run_id"] == "drift__2013-02-17"
    assert loop.summary.retraining["outcome"] in {"promoted", "rejected"}
    run = deployment.rest.run("flights_training", "drift__2013-02-17")
    verdict = {"promoted": "passed", "rejected": "rejected"}[loop.summary.retraining["outcome"]]
    assert verdict in run["note"]


def test_the_served_model_is_the_champion_and_answers(loop):
    assert 0 < loop.summary.online_prediction["probability"] < 1
    assert loop.summary.champions[0]["version"] == (2 if loop.summary.retraining["outcome"] == "promoted" else 1)


def test_every_prediction_of_a_night_was_labelled_or_counted(loop, deployment):
    feedback = LakeTable(deployment.base / "lake/flights/feedback").read(NIGHTS)
    assert feedback.num_rows == LakeTable(deployment.base / "lake/flights/predictions").read(NIGHTS).num_rows
    assert feedback["label"].null_count < 0.2 * feedback.num_rows


@pytest.mark.parametrize("behavior", ["none", "failed", "completed"])
def test_a_repeated_backfill_changes_no_row(loop, predictions, deployment, behavior):
    """`none` and `failed` make no runs; `completed` runs each night again.

    What decides a night's rows is the champion: nights that an older champion scored are replaced, so a first
    repetition settles them, and a second one changes nothing.
    """
    if behavior == "completed":
        _repeat(loop, deployment, behavior)
    before = predictions.read(NIGHTS, columns=DATA_COLUMNS).sort_by("flight_id")
    version = predictions.snapshot().version
    tries = _tries(deployment)
    _repeat(loop, deployment, behavior)
    assert predictions.read(NIGHTS, columns=DATA_COLUMNS).sort_by("flight_id").equals(before)
    assert predictions.snapshot().version == version, "a night that is current is not committed again"
    ran_again = sum(_tries(deployment)) - sum(tries)
    assert ran_again == (len(NIGHTS) if behavior == "completed" else 0)


def test_a_pinned_version_replaces_exactly_its_night(loop, predictions, deployment):
    night = Window.of(NIGHTS.start)
    others = Window.of("2013-02-16", "2013-02-17")
    before = predictions.read(others, columns=DATA_COLUMNS).sort_by("flight_id")
    run_id = deployment.rest.trigger("flights_scoring", {"version": 1, "from": str(night.start), "to": str(night.end)})
    assert deployment.rest.wait("flights_scoring", run_id, 300) == "success"
    assert set(predictions.read(night)["model_version"].to_pylist()) == {1}
    assert predictions.read(others, columns=DATA_COLUMNS).sort_by("flight_id").equals(before)


def test_rolling_back_is_one_run_of_the_release_dag(loop, deployment):
    run_id = deployment.rest.trigger("flights_release", {"version": 1, "reason": "the test asks for it"})
    assert deployment.rest.wait("flights_release", run_id, 300) == "success"
    assert loop.predict()["probability"] > 0


def _repeat(loop: Loop, deployment, behavior: str) -> None:
    """Repeat the nights' backfill, and wait until Airflow calls it complete (a sweep every 30 s)."""
    _settled(deployment)
    dates = ("--from-date", str(NIGHTS.start), "--to-date", str(NIGHTS.end))
    options = ("--dag-id", "flights_scoring", *dates, "--reprocess-behavior", behavior)
    loop.command("airflow", "backfill", "create", *options)
    _settled(deployment)


def _settled(deployment) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        active = any(found["completed_at"] is None for found in deployment.rest.backfills("flights_scoring"))
        running = any(run["state"] in {"running", "queued"} for run in deployment.rest.runs("flights_scoring"))
        if not active and not running:
            return
        time.sleep(2)
    raise AssertionError("the backfill did not end")


def _tries(deployment) -> list[int]:
    runs = deployment.rest.runs("flights_scoring")
    tasks = [
        deployment.rest.call("GET", f"/api/v2/dags/flights_scoring/dagRuns/{run['dag_run_id']}/taskInstances/score")
        for run in runs
        if run["logical_date"]
    ]
    return [task["try_number"] for task in tasks]
