"""Asking a person: what is shown, what is kept, and when nobody is asked again."""

from datetime import UTC, datetime

import pytest
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowFailException, TaskAwaitingInput

from airflow_ml.hooks.releases import ReleaseRecord
from airflow_ml.lifecycle.approvals import Answer, needed
from airflow_ml.operators import ApproveReleaseOperator
from airflow_ml.spec import Canary, Serving
from tests.support.models import small_model
from tests.support.released import crown, record, reissue


@pytest.fixture
def released(platform, model, tmp_path):
    """Version 1 rules, version 2 asks."""
    for version in (1, 2):
        record(platform, model.name, version, reports={"evaluation": tmp_path / "evaluation.html"})
    crown(platform, model.name, 1)
    return ReleaseRecord(platform, model.name)


class Dag:
    """As much of a run as the operator looks at."""

    def __init__(self, dag_id="small_release", run_id="r", clear_number=0):
        self.dag_id, self.run_id, self.clear_number = dag_id, run_id, clear_number


class Ti:
    """Keeps what is pushed."""

    id = "1"
    map_index = -1

    def __init__(self, dag_id="small_release"):
        self.dag_id, self.pushed = dag_id, {}

    def xcom_push(self, key, value):
        self.pushed[key] = value


@pytest.fixture
def ask(platform, model, monkeypatch):
    """Executes the operator; returns what Airflow was told to show, or the answer that was found."""
    from airflow.providers.standard.operators import hitl

    told = []
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **detail: told.append(detail))

    def make(clear=0, run_id="r", **given):
        with DAG("small_release", schedule=None):
            given = {"model": model, "platform": platform, "version": 2} | given
            operator = ApproveReleaseOperator(task_id="approve", **given)
            operator >> BaseOperator(task_id="rollout")
        ti = Ti()
        context = {"ti": ti, "task_instance": ti, "dag_run": Dag(run_id=run_id, clear_number=clear), "task": operator}
        skipped = []
        monkeypatch.setattr(operator, "skip", lambda ti, tasks: skipped.extend(t.task_id for t in tasks), raising=False)
        return operator, context, skipped, told

    return make


def answer(operator, context, option="Approve", user=True, **said):
    """Airflow resumes the task with an answer; what was parked says which report was shown."""
    with pytest.raises(TaskAwaitingInput) as parked:
        operator.execute(context)
    event = {
        "chosen_options": [option],
        "params_input": said or {},
        "responded_at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        "responded_by_user": {"id": "7", "name": "Anonymous"} if user else None,
    }
    return operator.execute_complete(context, event, **parked.value.kwargs)


def test_the_gate_report_is_shown_and_the_answer_is_kept_with_it(released, ask):
    operator, context, skipped, told = ask()
    answer(operator, context, why="looks good", approver="Ann")
    (shown,) = told
    assert shown["subject"] == "Release small version 2?"
    assert "| Gate | Decision | Observed" in shown["body"]
    assert "Version 1 is champion" in shown["body"]
    page = "http://airflow.test/airflow-ml/releases/small_release/small/2"
    assert f"[Release record]({page}) · [Evaluation, with plots]({page}/evaluation)" in shown["body"]
    assert shown["defaults"] == ["Reject"]
    assert set(shown["params"]) == {"why", "approver"}
    (kept,) = released.answers()
    assert (kept.option, kept.by, kept.user, kept.why) == ("approve", "Ann", "Anonymous", "looks good")
    assert kept.gate_report == released.release(2).gate_report.sha256
    assert not kept.by_default
    assert skipped == []
    assert context["ti"].pushed["_link_ReleaseRecordLink"].endswith("/small/2")


def test_a_retry_finds_its_answer_and_so_does_another_run_a_yes(released, ask):
    answer(*ask()[:2])
    for run in ({}, {"clear": 1}, {"run_id": "other"}):
        operator, context, skipped, told = ask(**run)
        told.clear()
        assert operator.execute(context)["chosen_options"] == ["Approve"]
        assert (told, skipped) == ([], [])


def test_a_no_holds_for_its_run_and_skips_what_comes_after(released, ask):
    operator, context, skipped, told = ask()
    answer(operator, context, "Reject", why="too early")
    assert skipped == ["rollout"]
    assert "rejected by Anonymous" in context["ti"].pushed["airflow_ml_note"]
    operator, context, skipped, told = ask()
    told.clear()
    assert operator.execute(context)["chosen_options"] == ["Reject"]
    assert (told, skipped) == ([], ["rollout"])
    for another in ({"clear": 1}, {"run_id": "other"}):
        operator, context, *_ = ask(**another)
        with pytest.raises(TaskAwaitingInput):
            operator.execute(context)


def test_a_report_that_changed_is_asked_about_again(released, ask, platform, model):
    answer(*ask()[:2])
    reissue(platform, model.name, 2)
    operator, context, *_ = ask()
    with pytest.raises(TaskAwaitingInput):
        operator.execute(context)


def test_a_report_that_changes_while_it_is_shown_is_shown_anew(released, ask, platform, model):
    operator, context, _, told = ask()
    with pytest.raises(TaskAwaitingInput) as parked:
        operator.execute(context)
    shown = released.release(2).gate_report.sha256
    reissue(platform, model.name, 2)
    event = {"chosen_options": ["Approve"], "params_input": None, "responded_at": datetime.now(UTC)}
    with pytest.raises(TaskAwaitingInput):
        operator.execute_complete(context, event | {"responded_by_user": None}, **parked.value.kwargs)
    assert [answer.gate_report for answer in released.answers()] == [shown]
    assert released.answer(released.release(2)) is None
    assert len(told) == 2


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"version": 9}, "no such version is registered"),
        ({"version": None}, "no version is given"),
        ({"mode": "quickly"}, "choose one of declared, canary, shadow, at_once, rollback"),
    ],
)
def test_bad_input_is_refused_before_anybody_is_asked(released, ask, form, says):
    operator, context, _, told = ask(**form)
    with pytest.raises(AirflowFailException, match=says):
        operator.execute(context)
    assert told == []


def test_a_rollback_is_nobodys_to_approve(released, ask):
    operator, context, skipped, told = ask(version="1", mode="rollback")
    assert operator.execute(context) == {"needed": False}
    assert (told, skipped) == ([], [])


@pytest.mark.parametrize(
    ("declared", "above"), [("required", 0.0), ("above:0.1", 0.1), ("above: 10%", 0.1), (None, None), ({}, 0.0)]
)
def test_approval_is_declared_in_a_word(declared, above):
    approval = small_model(approval=declared, serving=Serving(canary=Canary())).approval
    assert (None if approval is None else approval.above) == above


@pytest.mark.parametrize("declared", ["above:1", "above:0", "above:roc_auc", "always", "above:"])
def test_a_word_that_says_nothing_is_refused(declared):
    with pytest.raises(ValueError, match=r"write 'required', or a share of the traffic"):
        small_model(approval=declared)


def test_a_person_who_is_asked_above_a_share_needs_a_step_below_it():
    with pytest.raises(ValueError, match="declare a canary step up to there"):
        small_model(approval="above:0.1")
    with pytest.raises(ValueError, match="declare a canary step up to there"):
        small_model(approval="above:0.1", serving=Serving(canary=Canary(steps=(0.2,))))


@pytest.mark.parametrize(
    ("share", "answered", "waits"),
    [(0.1, None, False), (0.5, None, True), (0.5, "reject", True), (1, "approve", False)],
)
def test_a_release_waits_for_a_person_above_its_share(share, answered, waits):
    from airflow_ml import Approval

    kept = answered and Answer(version=1, gate_report="g", option=answered, at=datetime.now(UTC))
    assert needed(Approval(above=0.1), share, kept or None) is waits
    assert not needed(None, share, None)


def test_the_deadline_answers_as_declared(platform, model, released, ask):
    from airflow_ml import Approval

    lenient = model.model_copy(update={"approval": Approval(deadline_s=60, otherwise="approve")})
    operator, context, _, told = ask(model=lenient)
    assert operator.response_timeout.total_seconds() == 60
    answer(operator, context, "Approve", user=False)
    assert told[-1]["defaults"] == ["Approve"]
    (kept,) = released.answers()
    assert (kept.by_default, kept.by) == (True, "")
    assert "by the deadline's default" in str(kept)
