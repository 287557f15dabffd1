"""Nights again: which rows change, and which do not, when one is refused, mended, backfilled, pinned or rolled back.

The tests go on from each other, in this order, from what the loop left: version 1 has scored its nights, version 2 is
the champion and has scored those after them.
"""

import csv
import gzip
import io
import json
import time
import urllib.request
from collections.abc import Iterable
from datetime import date
from typing import NamedTuple
from urllib.parse import quote

import pyarrow as pa
import pytest

from airflow_ml.examples.flights.demo.calendar import window
from airflow_ml.examples.flights.demo.online import predict
from airflow_ml.examples.flights.demo.tools import backfill, command
from airflow_ml.examples.flights.world import World
from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.errors import JobFailed
from airflow_ml.lifecycle.windows import Window
from airflow_ml.serving.client import connect
from tests.support.mail import body

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]

FIRST, LAST = date(2013, 2, 15), date(2013, 2, 19)
ASKED = Window.of("2013-02-15", "2013-02-16")
REFUSED = date(2013, 2, 20)
SCORED = Window.of(FIRST, LAST)
ALL = Window.of(FIRST, REFUSED)


class Held(NamedTuple):
    """What the table holds of a night: its data files, and every column of its rows, ``scored_at`` included."""

    files: list[str]
    rows: pa.Table

    @property
    def versions(self) -> set[int]:
        return set(self.rows["model_version"].to_pylist())


@pytest.fixture(scope="module")
def predictions(loop, deployment) -> LakeTable:
    return LakeTable(deployment.base / "lake/flights/predictions")


def _held(predictions: LakeTable, days: Iterable[date] = SCORED) -> dict[date, Held]:
    return {day: Held(predictions.files(Window.of(day)), predictions.read(Window.of(day))) for day in days}


def test_completed_replaces_exactly_the_nights_it_is_asked_for_and_only_under_another_champion(
    loop, predictions, deployment
):
    assert loop.summary.champions[0]["version"] == 2, loop.summary.retraining
    before, commits = _held(predictions), predictions.snapshot().version
    assert {day: held.versions for day, held in before.items()} == {
        day: {1} if day in loop.calendar.nights else {2} for day in SCORED
    }

    assert _backfill(loop, ASKED, "completed") == set(ASKED)
    after = _held(predictions)
    for day in ASKED:
        assert after[day].versions == {2}
        assert after[day].rows["release"].unique() == before[LAST].rows["release"].unique()
        assert after[day].rows["flight_id"] == before[day].rows["flight_id"]
        assert after[day].rows["probability"] != before[day].rows["probability"]
        assert not set(after[day].files) & set(before[day].files)
    others = set(SCORED) - set(ASKED)
    assert {day: after[day] for day in others} == {day: before[day] for day in others}
    assert predictions.snapshot().version == commits + len(ASKED), "one commit for each night"
    _ran_in_parallel(deployment.rest, ASKED)

    assert _backfill(loop, ASKED, "completed") == set(ASKED), "every night runs again, as a clear"
    assert _held(predictions) == after, "the champion is the same"
    assert predictions.snapshot().version == commits + len(ASKED), "a night that is current is not committed again"


# a night whose input is refused


class Refusal(NamedTuple):
    """What there was before the night, and its runs."""

    before: dict[date, Held]
    trainings: set[str]
    data: str
    monitoring: str
    mails: int


@pytest.fixture(scope="module")
def refused(loop, predictions, deployment, mailbox) -> Refusal:
    """A file with an origin that nobody has heard of lands, and all daily DAGs have their turn at it."""
    rest = deployment.rest
    before = _held(predictions)
    trainings = _trainings(deployment)
    mails = len(mailbox.mails)
    world = World(deployment.base / "landing")
    (path,) = world.deliver(Window.of(REFUSED))
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode())))
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "origin": "XYZ" if row["origin"] == "EWR" else row["origin"]} for row in rows)
    path.write_bytes(gzip.compress(text.getvalue().encode()))
    world.deliver_outcomes(Window.of(LAST, REFUSED))
    data = rest.trigger("flights_data", {}, logical_date=f"{REFUSED}T00:00:00Z")
    rest.wait("flights_data", data, 300)
    monitoring = rest.trigger("flights_monitoring", {}, logical_date=f"{REFUSED}T00:00:00Z")
    rest.wait("flights_monitoring", monitoring, 300)
    return Refusal(before, trainings, data, monitoring, mails)


def test_a_refused_night_has_no_features_and_its_page_is_in_the_mail(refused, deployment, mailbox):
    states = _states(deployment, "flights_data", refused.data)
    assert deployment.rest.run("flights_data", refused.data)["state"] == "failed"
    assert (states["ingest"], states["validate"], states["build_features"]) == ("success", "failed", "upstream_failed")
    assert LakeTable(deployment.base / "lake/flights/features").missing([REFUSED]) == [REFUSED]
    mail = mailbox.mails[refused.mails]
    assert mail["subject"].startswith("[flights] input is broken, a person must look: ")
    for fact in ("<td>flights</td>", str(REFUSED), "origin", "XYZ", "flights_data/runs/", "/tasks/validate"):
        assert fact in body(mail)
    page = body(mail).partition('Report: <a href="')[2].partition('"')[0]
    assert "XYZ" in _opened(deployment, page)


def test_monitoring_goes_on_past_a_refused_night_and_nothing_is_retrained_on_it(refused, deployment, mailbox):
    """The columns of the nights before it have drifted, and nothing but the broken input holds a retraining off."""
    rest = deployment.rest
    assert rest.run("flights_monitoring", refused.monitoring)["state"] == "success"
    assert _states(deployment, "flights_monitoring", refused.monitoring) == {
        **dict.fromkeys(("wait_for_labels", "ingest_outcomes", "monitor", "decide_retraining", "alert"), "success"),
        **dict.fromkeys(("wait_for_predictions", "join_feedback", "trigger_training", "resend_training"), "skipped"),
    }
    assert rest.result("flights_monitoring", refused.monitoring, "monitor")["summary"]["data_drift"] == "fail"
    decision = rest.result("flights_monitoring", refused.monitoring, "decide_retraining")["summary"]
    assert decision["decision"] == "broken_input"
    assert str(REFUSED) in decision["reasons"][0]
    assert "broken_input" in rest.run("flights_monitoring", refused.monitoring)["note"]
    assert _trainings(deployment) == refused.trainings
    assert len(mailbox.mails) == refused.mails + 2, "one from validation, one from monitoring"
    mail = mailbox.mails[-1]
    said = f"[flights] input is broken, a person must look: {REFUSED}: validation refused it"
    assert mail["subject"].startswith(said)
    for fact in ("flights, version 2", f"2013-02-18..{REFUSED}", "XYZ", f"/runs/{quote(refused.monitoring, safe='')}"):
        assert fact in body(mail)
    page = body(mail).partition('Report: <a href="')[2].partition('"')[0]
    assert str(REFUSED) in _opened(deployment, page)


def test_none_runs_the_night_that_has_no_run_and_it_fails_for_want_of_features(refused, loop, predictions, deployment):
    assert _backfill(loop, ALL, "none", while_active=_a_second_one_is_refused) == {REFUSED}
    states = {day: run["state"] for day, run in _nightly(deployment.rest).items()}
    assert states == {day: "failed" if day == REFUSED else "success" for day in ALL}
    assert predictions.missing([REFUSED]) == [REFUSED]
    assert _held(predictions) == refused.before


def test_failed_runs_the_mended_night_and_only_it(refused, loop, predictions, deployment):
    World(deployment.base / "landing").deliver(Window.of(REFUSED))
    _clear(deployment, "flights_data", refused.data)
    assert deployment.rest.wait("flights_data", refused.data, 300) == "success"
    commits = predictions.snapshot().version

    assert _backfill(loop, ALL, "failed") == {REFUSED}
    (night,) = _held(predictions, [REFUSED]).values()
    assert night.versions == {2}
    assert night.rows.num_rows == LakeTable(deployment.base / "lake/flights/raw").snapshot().rows[REFUSED]
    assert _held(predictions) == refused.before
    assert predictions.snapshot().version == commits + 1


def test_monitoring_that_is_cleared_after_the_mending_judges_the_night(refused, deployment, mailbox):
    """It drifts at a touch in this declaration, so a retraining is due; it is not let run."""
    rest = deployment.rest
    rest.pause("flights_training")
    _clear(deployment, "flights_monitoring", refused.monitoring)
    assert rest.wait("flights_monitoring", refused.monitoring, 300) == "success"
    decision = rest.result("flights_monitoring", refused.monitoring, "decide_retraining")["summary"]
    assert decision["decision"] == "retrain"
    (started,) = _trainings(deployment) - refused.trainings
    assert started == f"drift__{REFUSED}"
    assert "retraining started" in mailbox.mails[-1]["subject"]
    rest.call("PATCH", f"/api/v2/dags/flights_training/dagRuns/{started}", {"state": "failed"})
    rest.unpause("flights_training")


# versions by hand


def test_a_pinned_version_replaces_exactly_its_night(loop, predictions, deployment):
    before = _held(predictions)
    run_id = deployment.rest.trigger("flights_scoring", {"version": 1, **window(Window.of(FIRST))})
    assert deployment.rest.wait("flights_scoring", run_id, 300) == "success"
    after = _held(predictions)
    assert (before[FIRST].versions, after[FIRST].versions) == ({2}, {1})
    assert {day for day in SCORED if after[day] != before[day]} == {FIRST}


def test_rolling_back_is_one_run_of_the_release_dag(loop, deployment):
    run_id = deployment.rest.trigger(
        "flights_release", {"mode": "rollback", "version": 1, "reason": "the test asks for it"}
    )
    assert deployment.rest.wait("flights_release", run_id, 300) == "success"
    (ruling, *_) = json.loads(command(loop.environment, "airflow-ml", "status", "flights", "--json"))["champions"]
    assert (ruling["version"], ruling["reason"]) == (1, "the test asks for it")
    with connect(f"http://{loop.rest_address}") as server:
        assert server.metadata("flights", label="stable").version == 1
    assert 0 < predict(loop.model, loop.base, loop.rest_address)["probability"] < 1


# Airflow, as a person at its command line


def _backfill(loop, nights: Window, behavior: str, while_active=None) -> set[date]:
    """`airflow backfill create`, and wait until Airflow calls it complete (a sweep every 30 s); the nights that ran."""
    _settled(loop.rest)
    before = _tries(loop.rest)
    backfill(loop.rest, loop.environment, "flights_scoring", nights, "--reprocess-behavior", behavior)
    if while_active is not None:
        while_active(loop.rest, nights)
    _settled(loop.rest)
    return {day for day, tries in _tries(loop.rest).items() if tries > before.get(day, 0)}


def _a_second_one_is_refused(rest, nights: Window) -> None:
    """Airflow allows one active backfill a DAG."""
    again = {
        "dag_id": "flights_scoring",
        "from_date": f"{nights.start}T00:00:00Z",
        "to_date": f"{nights.end}T00:00:00Z",
    }
    with pytest.raises(JobFailed, match="409"):
        rest.call("POST", "/api/v2/backfills", again)


def _settled(rest) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        active = any(found["completed_at"] is None for found in rest.backfills("flights_scoring"))
        running = any(run["state"] in {"running", "queued"} for run in rest.runs("flights_scoring"))
        if not active and not running:
            return
        time.sleep(2)
    raise AssertionError("the backfill did not end")


def _nightly(rest) -> dict[date, dict]:
    """The runs of nights, without those by hand that have no logical date."""
    runs = rest.runs("flights_scoring")
    return {date.fromisoformat(run["logical_date"][:10]): run for run in runs if run["logical_date"]}


def _task(rest, run_id: str, task: str) -> dict:
    return rest.call("GET", f"/api/v2/dags/flights_scoring/dagRuns/{quote(run_id, safe='')}/taskInstances/{task}")


def _tries(rest) -> dict[date, int]:
    """How often each night's first task was tried: a run that is cleared tries it again."""
    return {
        day: _task(rest, run["dag_run_id"], "wait_for_features")["try_number"] for day, run in _nightly(rest).items()
    }


def _ran_in_parallel(rest, nights: Window) -> None:
    """The nights were scored at the same time."""
    tasks = [_task(rest, run["dag_run_id"], "score") for day, run in _nightly(rest).items() if day in nights]
    assert max(task["start_date"] for task in tasks) < min(task["end_date"] for task in tasks)


def _states(deployment, dag_id: str, run_id: str) -> dict[str, str | None]:
    return {row.task_id: row.state for row in deployment.rest.tasks(dag_id, run_id)}


def _trainings(deployment) -> set[str]:
    return {run["dag_run_id"] for run in deployment.rest.runs("flights_training")}


def _clear(deployment, dag_id: str, run_id: str) -> None:
    path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/clear"
    deployment.rest.call("POST", path, {"dry_run": False, "only_failed": False})


def _opened(deployment, url: str) -> str:
    """A page of Airflow's UI as a user who is logged in sees it."""
    token = deployment.rest.call("POST", "/auth/token", {"username": "admin", "password": "test"})["access_token"]
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.read().decode()
