"""Waiting: what is there, and what a sensor and its trigger make of it."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException, TaskDeferred

from airflow_ml.hooks.readiness import CommitLog, Readiness, Wanted, newest
from airflow_ml.lifecycle.errors import BaseError
from airflow_ml.sensors import LabelsArrivedSensor, LandingFileSensor, PartitionCommittedSensor
from airflow_ml.triggers import ReadinessTrigger

DAY = datetime(2013, 8, 1, tzinfo=UTC)


def _landed(platform, path):
    file = Path(platform.landing_root) / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("x")


def _table(platform, model, name):
    return Path(platform.base) / "lake" / model.name / name


# what is there


def test_a_committed_partition_is_seen_without_an_engine(platform, model, committed):
    log = CommitLog(_table(platform, model, "features"))
    assert log.committed() == frozenset()
    committed("features", "2013-08-01", "2013-08-02")
    assert log.committed() == {"2013-08-01", "2013-08-02"}
    committed("features", "2013-08-03")
    assert log.committed() == {"2013-08-01", "2013-08-02", "2013-08-03"}
    assert newest(platform, model, "features") == "2013-08-03"
    assert newest(platform, model, "raw") is None


def test_what_lake_says_is_what_the_log_reader_says_past_a_checkpoint(platform, model, committed):
    from datetime import date

    from deltalake import DeltaTable

    from airflow_ml.lake import LakeTable

    days = [f"2013-01-{number:02}" for number in range(1, 5)]
    path = _table(platform, model, "features")
    for day in days:
        committed("features", day)
        if day == days[1]:
            DeltaTable(path).create_checkpoint()
    assert list((path / "_delta_log").glob("*.checkpoint.parquet"))
    assert LakeTable(path).missing([date.fromisoformat(day) for day in days]) == []
    assert CommitLog(path).committed() == set(days)


def test_a_log_without_its_beginning_is_refused_and_not_guessed(platform, model, committed):
    committed("features", "2013-08-01")
    path = _table(platform, model, "features")
    (path / "_delta_log" / f"{0:020}.json").unlink()
    with pytest.raises(BaseError, match="entry 0 of the table's log is gone"):
        CommitLog(path).committed()


def test_labels_are_there_when_they_landed_or_are_committed(platform, model, committed):
    committed("outcomes", "2013-08-01")
    _landed(platform, "outcomes/2013-08-02.csv.gz")
    folder = str(_table(platform, model, "outcomes"))
    wanted = [
        Wanted(day=day, file=f"{platform.landing_root}/outcomes/{day}.csv.gz", table=folder)
        for day in ("2013-08-01", "2013-08-02", "2013-08-03")
    ]
    assert Readiness(wanted).missing() == [wanted[2]]


# the trigger


def _event(trigger):
    async def first():
        async for event in trigger.run():
            return event.payload
        return None

    return asyncio.run(first())


def _wanted(path):
    return [{"day": "2013-08-01", "file": str(path), "table": None}]


def test_the_trigger_fires_when_it_is_there(tmp_path):
    (tmp_path / "a").write_text("x")
    assert _event(ReadinessTrigger(_wanted(tmp_path / "a"), time.time() + 60, 0.01)) == {"status": "ready"}


def test_the_trigger_fires_soon_after_it_comes(tmp_path):
    async def scenario():
        trigger = ReadinessTrigger(_wanted(tmp_path / "a"), time.time() + 60, 0.05)
        waiting = asyncio.create_task(anext(aiter(trigger.run())))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        (tmp_path / "a").write_text("x")
        return (await asyncio.wait_for(waiting, 2)).payload

    assert asyncio.run(scenario()) == {"status": "ready"}


def test_the_trigger_keeps_its_deadline_and_says_what_is_missing(tmp_path):
    began = time.monotonic()
    event = _event(ReadinessTrigger(_wanted(tmp_path / "a"), time.time() + 0.2, 30))
    assert time.monotonic() - began < 2
    assert event == {"status": "timeout", "missing": _wanted(tmp_path / "a")}


def test_another_triggerer_goes_on_with_the_same_deadline(tmp_path):
    from airflow.sdk._shared.module_loading import import_string

    path, arguments = ReadinessTrigger(_wanted(tmp_path / "a"), 12.5, 3).serialize()
    again = import_string(path)(**arguments)
    assert (again.deadline, again.poll_s, again.wanted) == (12.5, 3, _wanted(tmp_path / "a"))


def test_the_trigger_hands_on_an_error(platform, model, committed):
    committed("features", "2013-08-01")
    path = _table(platform, model, "features")
    (path / "_delta_log" / f"{0:020}.json").unlink()
    wanted = [{"day": "2013-08-02", "file": None, "table": str(path)}]
    event = _event(ReadinessTrigger(wanted, time.time() + 60, 1))
    assert (event["status"], event["error"]) == ("error", "BaseError")


# the sensors


def _sensor(kind, model, platform, **kwargs):
    if kind is PartitionCommittedSensor:
        kwargs["table"] = "features"
    with DAG("waits", schedule=None):
        return kind(
            task_id="wait",
            model=model,
            platform=platform,
            **{"start": "2013-08-01", "end": "2013-08-02", "poke_interval": 0.05, "timeout": 0.2} | kwargs,
        )


@pytest.fixture
def execute():
    """Call a sensor as its task does."""
    from airflow.sdk.bases.operator import ExecutorSafeguard

    def call(sensor, method="execute", *args):
        token = ExecutorSafeguard.tracker.set(sensor)
        try:
            return getattr(sensor, method)({"params": {}}, *args)
        finally:
            ExecutorSafeguard.tracker.reset(token)

    return call


KINDS = [LandingFileSensor, LabelsArrivedSensor, PartitionCommittedSensor]
WAITED_FOR = {LandingFileSensor: "raw", LabelsArrivedSensor: "outcomes", PartitionCommittedSensor: "features"}
"""The folder of the landing zone, or the table."""


def _comes(kind, platform, committed, *days):
    """What a sensor of this kind waits for."""
    if kind is PartitionCommittedSensor:
        committed("features", *days)
        return
    for day in days:
        _landed(platform, f"{WAITED_FOR[kind]}/{day}.csv.gz")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_there_never_defers(platform, model, committed, execute, kind):
    _comes(kind, platform, committed, "2013-08-01", "2013-08-02")
    assert execute(_sensor(kind, model, platform, deferrable=True)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_there_defers_with_an_absolute_deadline(platform, model, committed, execute, kind):
    _comes(kind, platform, committed, "2013-08-01")
    with pytest.raises(TaskDeferred) as deferred:
        execute(_sensor(kind, model, platform, deferrable=True, timeout=60))
    trigger = deferred.value.trigger
    assert isinstance(trigger, ReadinessTrigger)
    assert [want["day"] for want in trigger.wanted] == ["2013-08-01", "2013-08-02"]
    assert 50 < trigger.deadline - time.time() <= 60
    assert deferred.value.timeout is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_timeout_says_what_was_waited_for_and_what_to_do(platform, model, execute, kind):
    missing = rf"2013-08-01 \([^ ]*/{WAITED_FOR[kind]}[^ ]*\), 2013-08-02 \([^ ]*\)"
    sensor = _sensor(kind, model, platform)
    with pytest.raises(AirflowSensorTimeout, match=rf"in vain for {missing}. Remedy: .*clear this task"):
        execute(sensor)


@pytest.mark.parametrize("kind", KINDS)
def test_a_timeout_in_the_triggerer_says_the_same(platform, model, execute, kind):
    sensor = _sensor(kind, model, platform, deferrable=True)
    event = {"status": "timeout", "missing": _wanted("/landing/raw/2013-08-01.csv.gz")}
    message = r"in vain for 2013-08-01 \(/landing/raw/2013-08-01.csv.gz\). Remedy: .*clear this task"
    with pytest.raises(AirflowSensorTimeout, match=message):
        execute(sensor, "resumed", event)


def test_soft_fail_skips(platform, model, execute):
    with pytest.raises(AirflowSkipException):
        execute(_sensor(LandingFileSensor, model, platform, soft_fail=True))
    sensor = _sensor(LandingFileSensor, model, platform, soft_fail=True, deferrable=True)
    event = {"event": {"status": "timeout", "missing": _wanted("/a")}}
    with pytest.raises(AirflowSkipException):
        sensor.resume_execution("resumed", event, {"params": {}})


def test_a_window_outside_the_model_is_not_waited_for(platform, model, execute):
    with pytest.raises(AirflowFailException, match="no such partitions"):
        execute(_sensor(LandingFileSensor, model, platform, start="2014-01-01", end="2014-01-01", deferrable=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_deferred_sensor_in_a_run(platform, model, run_dag, committed, kind):
    """The trigger runs in this process; what is waited for comes while it waits."""
    import threading

    more = {"table": "features"} if kind is PartitionCommittedSensor else {}
    with DAG("deferred", schedule=None) as dag:
        kind(task_id="wait", model=model, platform=platform, deferrable=True, poke_interval=0.1, timeout=30, **more)
    timer = threading.Timer(2.0, _comes, (kind, platform, committed, "2013-08-01"))
    timer.start()
    _, states = run_dag(dag, logical_date=DAY)
    timer.join()
    assert states == {"wait": "success"}


# what is served


def test_a_server_says_what_it_has():
    from airflow_ml.hooks.looks import VersionServed

    asked = VersionServed(conn_id="c", model="m", version=2)
    assert asked.decide([(2, "AVAILABLE", "")]).status == "ready"
    assert asked.decide([(2, "LOADING", "")]).status == "waiting"
    assert asked.decide([(2, "END", "")]).status == "waiting", "unloaded: it may be loaded again"
    failed = asked.decide([(2, "END", "not a graph")])
    assert (failed.status, failed.text) == ("failed", "the server could not load m version 2: not a graph")
    assert asked.decide([(3, "END", "not a graph"), (2, "LOADING", "")]).status == "waiting"


def test_a_version_that_no_server_has_is_waited_for(model, monkeypatch):
    """Nobody listens: the server may be starting."""
    import json

    from airflow_ml.sensors import ModelVersionSensor

    extra = {"deadline_s": 0.3}
    connection = {"conn_type": "tf_serving", "host": "127.0.0.1", "port": 9, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", json.dumps(connection))
    with DAG("d", schedule=None):
        sensor = ModelVersionSensor(
            task_id="t", model=model, version="2", poke_interval=0.1, timeout=0.2, deferrable=True
        )
    with pytest.raises(TaskDeferred) as left:
        sensor.execute({})
    event = _event(left.value.trigger)
    assert event["status"] == "timeout"
    with pytest.raises(AirflowSensorTimeout, match=r"in vain: .*127.0.0.1:9"):
        sensor.resumed({}, event)


@pytest.mark.parametrize(("share", "there"), [(0.1, True), ("0.25", True), (0.5, False)])
def test_a_share_of_the_traffic_is_waited_for(model, platform, share, there):
    from airflow_ml.lifecycle.routing import Arm, Routing
    from airflow_ml.registry import routes
    from airflow_ml.sensors import TrafficReachedSensor
    from tests.support.released import crown, record

    for version in (1, 2):
        record(platform, model.name, version)
    crown(platform, model.name, 1)
    split = Routing(stable=1, arms=(Arm(name="canary", version=2, weight=0.25),))
    routes.route(platform, model.name, split, Routing(stable=1))
    with DAG("d", schedule=None):
        sensor = TrafficReachedSensor(task_id="t", model=model, platform=platform, version=2, share=share, timeout=0.2)
    assert sensor.poke({}) is there
    event = _event(_looking(sensor))
    assert event["status"] == ("ready" if there else "timeout")
    assert "version 2 has 0.25 of the traffic" in event["text"]


def _looking(sensor):
    from airflow_ml.triggers import LookTrigger

    return LookTrigger(sensor.question.model_dump(mode="json"), time.time() + 0.2, 0.05)


def test_traffic_that_will_not_come_is_not_waited_for(model, platform):
    from airflow_ml.hooks.looks import TrafficReached

    asked = TrafficReached(platform=platform, model=model.name, version=2, share=1.0)
    seen = asked.decide(0.0, rolled_back="p99 3 times the stable one's")
    assert (seen.status, "p99 3 times" in seen.text) == ("failed", True)
