"""Every operator and sensor as a mapped task, in a real run: each of its instances does its own part."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from airflow.sdk import DAG, BaseOperator

from airflow_ml import operators, sensors
from airflow_ml.operators import (
    ApproveReleaseOperator,
    DecideRetrainingOperator,
    MonitorModelOperator,
    PredictOperator,
    ReleaseModelOperator,
    RolloutModelOperator,
    SendAlertOperator,
    TriggerTrainingOperator,
    TuneModelOperator,
)
from airflow_ml.operators.stage import StageOperator
from airflow_ml.sensors.readiness import ReadinessSensor
from tests.support.released import crown, record

DAY = datetime(2013, 8, 1, tzinfo=UTC)
DAYS = ("2013-03-01", "2013-03-02")
BY_HAND = (ReleaseModelOperator, RolloutModelOperator)
OPERATORS = [getattr(operators, name) for name in operators.__all__]
# A search sends many requests: it has tests of its own.
STAGES = [kind for kind in OPERATORS if issubclass(kind, StageOperator) and kind is not TuneModelOperator]
SENSORS = [kind for name in sensors.__all__ if issubclass(kind := getattr(sensors, name), ReadinessSensor)]
DECISIONS = [
    {
        "decision": "retrain",
        "reasons": [f"the week up to {day} drifted"],
        "run_id": f"drift__{day}",
        "window": {"from": "2013-01-01", "to": day},
        "monitored": {"from": "2013-02-23", "to": day},
        "resend": [],
    }
    for day in DAYS
]


@pytest.fixture
def run_mapped(run_dag):
    """Run one operator once for each of some arguments; the states by map index."""

    def run(kind, arguments, **fixed):
        with DAG(f"maps_{kind.__name__}", schedule=None) as dag:
            kind.partial(task_id="mapped", **fixed).expand_kwargs(arguments)
        run_, _ = run_dag(dag, logical_date=DAY)
        return {ti.map_index: str(ti.state) for ti in run_.get_task_instances()}

    return run


def test_nothing_is_left_out():
    others = {ApproveReleaseOperator, PredictOperator, SendAlertOperator, TriggerTrainingOperator, TuneModelOperator}
    assert {*STAGES, *others} == set(OPERATORS)


@pytest.mark.parametrize("kind", STAGES, ids=lambda kind: kind.__name__)
def test_a_stage_operator(kind, model, platform, run_mapped, script):
    by_hand = issubclass(kind, BY_HAND)
    if by_hand:
        script(rollout={"summary": {"version": 1, "state": "kept", "open": False}})
        for version in (1, 2):
            record(platform, model.name, version)
    arguments = [
        {"stage_params": {"version": number + 1}} if by_hand else {"start": day, "end": day}
        for number, day in enumerate(DAYS)
    ]
    assert run_mapped(kind, arguments, model=model, platform=platform) == {0: "success", 1: "success"}
    sent = {}
    for path in Path(platform.base, "runs", model.name, "requests").glob("*/request.json"):
        request = json.loads(path.read_text())
        sent[request["coordinates"]["map_index"]] = request
    assert {request["stage"] for request in sent.values()} == {kind.stage}
    if by_hand:
        assert [sent[index]["params"]["version"] for index in (0, 1)] == [1, 2]
    else:
        assert [sent[index]["window"]["to"] for index in (0, 1)] == list(DAYS)
        looks_back = issubclass(kind, MonitorModelOperator | DecideRetrainingOperator)
        assert [sent[index]["window"]["from"] == DAYS[index] for index in (0, 1)] == [not looks_back] * 2


@pytest.mark.parametrize("kind", SENSORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("there", [1, 2])
def test_a_sensor(kind, there, model, platform, committed, run_mapped):
    fixed = {"poke_interval": 0.1, "timeout": 0.3}
    if kind is sensors.PartitionCommittedSensor:
        fixed["table"] = "raw"
    for day in DAYS[:there]:
        if kind is sensors.LandingFileSensor:
            file = Path(platform.landing_root, f"raw/{day}.csv.gz")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        else:
            committed("raw" if "table" in fixed else "outcomes", day)
    states = run_mapped(kind, [{"start": day, "end": day} for day in DAYS], model=model, platform=platform, **fixed)
    assert states == {0: "success", 1: "success" if there == 2 else "failed"}


@pytest.mark.parametrize("versions", [[1, 1], [1, 2]])
def test_the_sensor_of_traffic(versions, model, platform, run_mapped):
    for version in (1, 2):
        record(platform, model.name, version)
    crown(platform, model.name, 1)
    fixed = {"model": model, "platform": platform, "poke_interval": 0.1, "timeout": 0.3}
    states = run_mapped(sensors.TrafficReachedSensor, [{"version": version} for version in versions], **fixed)
    assert states == {0: "success", 1: "success" if versions == [1, 1] else "failed"}


def test_approvals_that_nobody_has_to_give(model, platform, run_mapped):
    for version in (1, 2):
        record(platform, model.name, version)
    asked = [{"version": version, "mode": "rollback"} for version in (1, 2)]
    assert run_mapped(ApproveReleaseOperator, asked, model=model, platform=platform) == {0: "success", 1: "success"}


def test_starting_trainings(model, register_dag, run_mapped, airflow_db):
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with DAG("training_for_each", schedule=None) as target:
        BaseOperator(task_id="train")
    register_dag(target)
    decisions = [{"decision": {"summary": decision}} for decision in DECISIONS]
    states = run_mapped(TriggerTrainingOperator, decisions, trigger_dag_id=target.dag_id)
    assert states == {0: "success", 1: "success"}
    with create_session() as session:
        started = set(session.scalars(select(DagRun.run_id).where(DagRun.dag_id == target.dag_id)))
    assert started == {decision["run_id"] for decision in DECISIONS}


def test_alerts(model, alerting, mailbox, run_mapped):
    told = [{"decision": {"summary": decision}, "started": decision["run_id"]} for decision in DECISIONS]
    assert run_mapped(SendAlertOperator, told, model=model, platform=alerting) == {0: "success", 1: "success"}
    # Mapped tasks run side by side.
    assert {mail["subject"].rpartition("because ")[2] for mail in mailbox.mails} == {
        decision["reasons"][0] for decision in DECISIONS
    }
    assert len(mailbox.mails) == len(DECISIONS)
