"""Taking a release to its traffic from a DAG: over a stage that does what a script says, and real records."""

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, AirflowTaskTimeout, TaskDeferred

from airflow_ml.hooks.releases import ReleaseRecord
from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.lifecycle.rollout import CANARY, Rollout, State
from airflow_ml.lifecycle.routing import Arm, Routing
from airflow_ml.operators import PromoteModelOperator, RollbackModelOperator, RolloutModelOperator
from airflow_ml.operators.rollout import pause_after
from airflow_ml.operators.wishes import parse_steps
from airflow_ml.pipelines import model_dags
from airflow_ml.registry import rollouts, routes
from airflow_ml.spec import Approval, Canary, Serving
from airflow_ml.triggers import RolloutTrigger
from tests.support.mail import body
from tests.support.models import small_model
from tests.support.released import crown, record

CANARIED = small_model(end="2013-12-31", serving=Serving(canary=Canary(steps=(0.1, 0.5))))


def summary(**changes):
    """What the stage returns."""
    return {
        "version": 2,
        "release": "v2-abc",
        "state": "canary",
        "share": 0.1,
        "open": True,
        "look_again_s": 0.0,
        "verdict": "hold",
        "verdict_reason": "12 requests, 500 are wanted",
        "reason": "",
        "why": "",
        "revision": 5,
    } | changes


KEPT = summary(state="kept", share=1.0, open=False, revision=9)


@pytest.fixture
def released(platform, model):
    """Version 1 rules, version 2 has passed."""
    for version in (1, 2):
        record(platform, model.name, version)
    crown(platform, model.name, 1)
    return ReleaseRecord(platform, model.name)


@pytest.fixture
def on_its_way(released, platform, model):
    """Version 2 has a tenth of the traffic; told how it takes to being stopped."""

    def make(interrupted):
        now = datetime.now(UTC)
        begun = Rollout(
            model=model.name,
            version=2,
            release=released.release(2).id,
            stable=1,
            plan=Canary(shadow=False, steps=(0.1, 0.5), interrupted=interrupted),
            state=State.CANARY,
            since=now,
            began=now,
        )
        rollouts.save(platform, begun)
        split = Routing(stable=1, arms=(Arm(name=CANARY, version=2, weight=0.1),))
        routes.route(platform, model.name, split, Routing(stable=1))
        assert released.traffic(2) == 0.1
        return begun

    return make


class Ti:
    """As much of a task instance as an operator uses outside of a run."""

    dag_id, task_id, run_id, map_index, try_number, id = "d", "t", "r", -1, 1, "1"

    def __init__(self):
        self.pushed = {}

    def xcom_push(self, key, value):
        self.pushed[key] = value


def operator_of(kind, model, platform, **given):
    with DAG("d", schedule=None):
        return kind(task_id="t", model=model, platform=platform, **{"stage_params": {"version": 2}} | given)


# the decision


@pytest.mark.parametrize(
    ("seen", "until_approval", "pause"),
    [
        (summary(open=False), False, None),
        (summary(look_again_s=30.0), False, 30.0),
        (summary(look_again_s=0.0), False, 1.0),
        (summary(look_again_s=30.0, waits_for="approval"), False, 30.0),
        (summary(look_again_s=30.0, waits_for="approval"), True, None),
        (summary(look_again_s=30.0), True, 30.0),
    ],
)
def test_what_follows_a_run_of_the_stage(seen, until_approval, pause):
    assert pause_after(seen, until_approval) == pause


@pytest.mark.parametrize(
    ("given", "steps"),
    [("", None), (None, None), ("None", None), ("[0.01, 0.1]", (0.01, 0.1)), ("0.5", (0.5,)), ([0.1, 0.2], (0.1, 0.2))],
)
def test_steps_come_as_forms_and_callers_give_them(given, steps):
    assert parse_steps(given) == steps


@pytest.mark.parametrize("given", ["0.5, 0.1", "[0.1, 0.1]", "1", "[0, 0.5]", "ten", 0.5, "[0.1, 1.5]", "nan"])
def test_steps_that_do_not_rise_are_refused(given):
    with pytest.raises(SpecError, match="give rising shares between 0 and 1"):
        parse_steps(given)


# a run


def test_the_stage_is_run_again_until_there_is_nothing_to_do(released, platform, script, run_dag, requests_sent):
    script(rollout={"summaries": [summary(), summary(share=0.5), KEPT]})
    form = {"version": 2, "mode": "canary", "steps": [0.1, 0.5], "reason": "it is better", "by": "ann"}
    run, states = run_dag(model_dags(CANARIED, platform)["small_release"], run_conf=form, logical_date=None)
    assert states == {"rollout": "success"}
    sent = requests_sent()["rollout"]
    wanted = {"version": "2", "mode": "canary", "steps": [0.1, 0.5], "reason": "it is better", "by": "ann"}
    assert sent["params"] == wanted
    assert sent["window"] is None
    assert len((released.folder.parents[1] / "runs of rollout").read_text()) == 3
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        rows = session.query(XComModel).filter(XComModel.run_id == run.run_id, XComModel.dag_id == run.dag_id)
        pushed = {row.key: XComModel.deserialize_value(row) for row in rows}
    assert pushed["airflow_ml_note"] == "small version 2: kept"
    assert pushed["_link_ReleaseRecordLink"] == "http://airflow.test/airflow-ml/releases/small_release/small/2"
    assert pushed["return_value"]["summary"]["state"] == "kept"


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"version": 9}, "no such version is registered"),
        ({}, "no version is given"),
        ({"version": 2, "steps": [0.5, 0.1]}, "do not rise"),
        ({"version": 2, "mode": "shadow", "steps": [0.1]}, "steps mean nothing with mode shadow"),
        ({"version": 3}, "was rejected by its gates"),
    ],
)
def test_bad_input_is_refused_before_any_work(released, platform, model, requests_sent, form, says):
    record(platform, "small", 3, verdict="rejected")
    # As a form's template renders it.
    rendered = {name: str(value) for name, value in form.items()}
    operator = operator_of(RolloutModelOperator, model, platform, stage_params=rendered)
    with pytest.raises(AirflowFailException, match=says):
        operator.execute({"ti": Ti()})
    assert requests_sent() == {}


def test_a_run_of_no_version_fails_before_any_work(released, platform, run_dag, requests_sent):
    _, states = run_dag(model_dags(CANARIED, platform)["small_release"], run_conf={"version": 9}, logical_date=None)
    assert (states, requests_sent()) == ({"rollout": "failed"}, {})


@pytest.mark.parametrize(
    "conf",
    [{"version": 0}, {"version": 1.5}, {"version": "x"}, {"version": 1, "mode": "soon"}, {"version": 1, "steps": [2]}],
)
def test_a_form_that_cannot_be_is_refused_by_the_rest_api(register_dag, client, token, conf):
    dag = model_dags(CANARIED)["small_release"]
    register_dag(dag)
    answer = client.post(
        "/api/v2/dags/small_release/dagRuns",
        json={"logical_date": None, "conf": conf},
        headers={"Authorization": f"Bearer {token('admin')}"},
    )
    assert answer.status_code == 400, answer.text


def test_the_form_offers_the_modes(register_dag):
    form = model_dags(CANARIED)["small_release"].params
    assert form.get_param("mode").schema["enum"] == ["declared", "canary", "shadow", "at_once", "rollback"]
    assert set(form) == {"version", "mode", "steps", "reason", "by"}


@pytest.mark.parametrize(("kind", "mode"), [(RollbackModelOperator, "rollback"), (PromoteModelOperator, "at_once")])
def test_operators_of_one_mode(released, platform, script, run_dag, requests_sent, kind, mode):
    script(rollout={"summary": KEPT})
    with DAG("of_one_mode", schedule=None) as dag:
        kind(task_id="go", model=CANARIED, platform=platform, stage_params={"version": 2, "by": "ann"})
    run_dag(dag, logical_date=None)
    assert requests_sent()["rollout"]["params"] == {"version": 2, "by": "ann", "mode": mode}


def test_a_rollback_needs_no_version_and_a_promotion_does(released, platform, model):
    crown(platform, model.name, 2)
    operator_of(RollbackModelOperator, model, platform, stage_params={}).request({"ti": Ti()}, platform)
    with pytest.raises(SpecError, match="no version is given"):
        operator_of(PromoteModelOperator, model, platform, stage_params={}).request({"ti": Ti()}, platform)


def test_what_is_rejected_or_over_is_skipped(model, platform):
    registered = {"register": {"summary": {"verdict": "rejected", "version": 2, "reasons": ["roc_auc"]}}}
    with pytest.raises(AirflowSkipException, match="rejected by its gates: roc_auc"):
        operator_of(RolloutModelOperator, model, platform, inputs=registered).execute({"ti": Ti()})
    over = {"canary": {"summary": summary(open=False, state="rolled_back")}}
    with pytest.raises(AirflowSkipException, match="is over: rolled_back"):
        operator_of(RolloutModelOperator, model, platform, inputs=over).execute({"ti": Ti()})


def test_a_release_that_goes_back_is_told_with_its_numbers(released, alerting, script, run_dag, mailbox):
    back = summary(
        state="rolled_back", open=False, reason="p99 3 times the stable one's", stable=1, numbers={"p99": 91}
    )
    script(rollout={"summary": back})
    form = {"version": 2, "by": "ann"}
    run, states = run_dag(model_dags(CANARIED, alerting)["small_release"], run_conf=form, logical_date=None)
    assert (run.state, states) == ("success", {"rollout": "success"}), "it is no failure"
    (mail,) = mailbox.mails
    assert mail["subject"] == "[small] version 2 was rolled back: p99 3 times the stable one's"
    for fact in ("version 1 answers all requests", "91", "Task log"):
        assert fact in body(mail)
    script(rollout={"summary": back | {"mode": "rollback"}})
    run_dag(model_dags(CANARIED, alerting)["small_release"], run_conf=form | {"mode": "rollback"}, logical_date=None)
    assert len(mailbox.mails) == 1, "who asks for it knows it"


# leaving the worker


def test_a_long_pause_is_spent_in_the_triggerer_and_a_short_one_here(on_its_way, platform, model, script):
    revision = on_its_way("continue").revision
    script(rollout={"summaries": [summary(look_again_s=60.0, revision=revision), summary(open=False)]})
    operator = operator_of(RolloutModelOperator, model, platform, deferrable=True)
    before = time.time()
    with pytest.raises(TaskDeferred) as left:
        operator.execute({"ti": Ti()})
    path, kept = left.value.trigger.serialize()
    assert path == "airflow_ml.triggers.rollout.RolloutTrigger"
    assert before + 59 < kept["until"] < time.time() + 61
    again = RolloutTrigger(**kept)
    assert again.serialize() == (path, kept), "another triggerer goes on with the same"
    event = {"status": "due", "deadline": kept["deadline"]}
    assert getattr(operator, left.value.method_name)({"ti": Ti()}, event)["summary"]["open"] is False
    for stays in ({"deferrable": False}, {"deferrable": True, "execution_timeout": timedelta(seconds=4)}):
        operator = operator_of(RolloutModelOperator, model, platform, **stays)
        script(rollout={"summaries": [summary(look_again_s=3.0, revision=revision), summary(open=False)]})
        (platform_runs := released_runs(platform)).unlink()
        assert operator.execute({"ti": Ti()})["summary"]["open"] is False
        assert len(platform_runs.read_text()) == 2


def released_runs(platform):
    from pathlib import Path

    return Path(platform.base) / "runs of rollout"


def _event(trigger):
    async def first():
        async for event in trigger.run():
            return event.payload
        return None

    return asyncio.run(first())


def _trigger(record, rollout, until_s, **given):
    now = time.time()
    return RolloutTrigger(
        platform=record.platform.model_dump(mode="json"),
        model=record.model_name,
        release=rollout.release,
        mark=record.mark(),
        until=now + until_s,
        deadline=now + 100,
        poll_s=0.05,
        not_before=now,
        **given,
    )


def test_the_trigger_fires_when_it_is_time(on_its_way, released):
    trigger = _trigger(released, on_its_way("continue"), 0.2)
    assert _event(trigger) == {"status": "due", "deadline": trigger.deadline}


def test_the_trigger_fires_early_when_somebody_moved_the_rollout_or_answered(on_its_way, released, platform, model):
    from airflow_ml.lifecycle.approvals import Answer

    rollout = on_its_way("continue")
    moved = rollout.model_copy(update={"revision": rollout.revision + 1})
    answer = Answer(version=2, gate_report="g", option="approve", at=datetime.now(UTC))
    for change in (lambda: rollouts.save(platform, moved), lambda: released.record(answer)):
        trigger = _trigger(released, rollout, 30)
        timer = threading.Timer(0.3, change)
        timer.start()
        began = time.monotonic()
        assert _event(trigger)["status"] == "changed"
        assert time.monotonic() - began < 10
        timer.join()


# being stopped


def test_stopping_a_deferred_task_does_what_the_model_declares(on_its_way, released, platform, model):
    rollout = on_its_way("roll_back")
    asyncio.run(_trigger(released, rollout, 30).on_kill())
    assert released.traffic(1) == 1.0
    assert released.rollout().state is State.ROLL_BACK
    assert released.rollout().reason == "the task was stopped"


def test_stopping_a_deferred_task_leaves_what_the_next_run_continues(on_its_way, released):
    rollout = on_its_way("continue")
    asyncio.run(_trigger(released, rollout, 30).on_kill())
    assert (released.traffic(2), released.rollout()) == (0.1, rollout)


def test_a_trigger_that_is_stopped_leaves_another_releases_rollout_alone(on_its_way, released):
    rollout = on_its_way("roll_back")
    other = _trigger(released, rollout.model_copy(update={"release": "v7-0"}), 30)
    asyncio.run(other.on_kill())
    assert released.traffic(2) == 0.1


@pytest.mark.parametrize(("interrupted", "share"), [("roll_back", 0.0), ("continue", 0.1)])
@pytest.mark.parametrize("during", ["waiting", "running"])
def test_stopping_a_task_in_the_worker(on_its_way, released, platform, model, script, interrupted, share, during):
    revision = on_its_way(interrupted).revision
    script(
        rollout={"summary": summary(look_again_s=60.0, revision=revision)}
        if during == "waiting"
        else {"do": "sleep", "seconds": 60}
    )
    operator = operator_of(RolloutModelOperator, model, platform)
    stop = threading.Timer(2.0, operator.on_kill)
    stop.start()
    with pytest.raises(Exception, match=r"stopped|ended by signal"):
        operator.execute({"ti": Ti()})
    stop.join()
    assert released.traffic(2) == share


def test_a_rollout_that_takes_too_long_is_a_task_that_was_stopped(on_its_way, released, platform, model, script):
    revision = on_its_way("roll_back").revision
    script(rollout={"summary": summary(look_again_s=60.0, revision=revision)})
    operator = operator_of(RolloutModelOperator, model, platform, execution_timeout=timedelta(seconds=3))
    with pytest.raises(AirflowTaskTimeout, match="execution_timeout of 3 s"):
        operator.execute({"ti": Ti()})
    assert released.traffic(1) == 1.0


# what the DAGs are made of


@pytest.mark.parametrize(
    ("approval", "edges"),
    [
        (None, {"rollout": set()}),
        (Approval(), {"approve": set(), "rollout": {"approve"}}),
        (Approval(above=0.1), {"canary": set(), "approve": {"canary"}, "rollout": {"canary"}}),
    ],
    ids=["nobody", "before", "in the middle"],
)
def test_a_person_is_asked_where_it_is_declared(platform, approval, edges):
    model = CANARIED.model_copy(update={"approval": approval})
    dags = model_dags(model, platform)
    release, training = dags["small_release"], dags["small_training"]
    assert {task.task_id: task.upstream_task_ids for task in release.tasks} == edges
    assert release.max_active_runs > 1, "a rollback does not queue behind an approval"
    first = next(iter(edges))
    assert "register" in training.get_task(first).upstream_task_ids
    assert set(edges) < set(training.task_ids)
    assert "release" not in training.task_ids
    if "canary" in edges:
        assert release.get_task("rollout").execution_timeout > timedelta(days=1), "a person has a day to answer"
        assert release.get_task("canary").until_approval
        assert not release.get_task("rollout").until_approval
