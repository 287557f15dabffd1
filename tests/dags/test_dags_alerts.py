"""Alerts over a real SMTP server, the training that a decision starts, and the notes of runs."""

import json
from datetime import UTC, datetime

import pytest
from airflow.sdk import DAG, TriggerRule

from airflow_ml.notifications import ModelAlertNotifier
from airflow_ml.operators import (
    DecideRetrainingOperator,
    IngestOperator,
    IngestOutcomesOperator,
    SendAlertOperator,
    TriggerTrainingOperator,
    ValidateDataOperator,
)
from airflow_ml.pipelines import model_dags
from airflow_ml.sensors import LandingFileSensor
from airflow_ml.ui.notes import LONGEST, with_verdicts
from tests.support.mail import PLAIN, body

DAY = datetime(2013, 8, 1, tzinfo=UTC)
DECISION = {
    "decision": "retrain",
    "reasons": ["12 of 30 columns drifted"],
    "run_id": "drift__2013-08-01",
    "window": {"from": "2013-02-01", "to": "2013-07-30"},
    "monitored": {"from": "2013-07-26", "to": "2013-08-01"},
    "resend": [],
    "model_version": 3,
    "numbers": {"drifted_share": 0.4},
}
MONITORING = {"reports": ["drift", "performance"], "request": "0" * 32}


def _alert(model, platform, started, resent="", **decision):
    with DAG("alert", schedule=None) as dag:
        SendAlertOperator(
            task_id="alert",
            model=model,
            platform=platform,
            decision={"summary": DECISION | decision},
            monitoring=MONITORING,
            started=started,
            resent=resent,
        )
    return dag


def test_a_retraining_that_started_is_told(model, alerting, mailbox, run_dag):
    _, states = run_dag(_alert(model, alerting, "drift__2013-08-01"), logical_date=DAY)
    assert states == {"alert": "success"}
    (mail,) = mailbox.mails
    assert (mail["to"], mail["from"]) == ("ml@example.com", "af@example.com")
    assert mail["subject"] == "[small] retraining started, because 12 of 30 columns drifted"
    for part in (
        "small, version 3",
        "drift__2013-08-01",
        "2013-07-26..2013-08-01",
        "drifted share</th><td>0.4",
        f"http://airflow.test/airflow-ml/reports/alert/small/{'0' * 32}/drift",
        f"http://airflow.test/airflow-ml/reports/alert/small/{'0' * 32}/performance",
        "http://airflow.test/dags/small_training/runs/drift__2013-08-01",
        "http://airflow.test/dags/alert/runs/",
    ):
        assert part in body(mail)


def test_an_address_that_mails_cannot_open_is_told_in_the_log(model, alerting, mailbox, run_dag, monkeypatch, capfd):
    monkeypatch.delenv("AIRFLOW__API__BASE_URL")
    run_dag(_alert(model, alerting, "drift__2013-08-01"), logical_date=DAY)
    assert "set [api] base_url" in "".join(capfd.readouterr())
    assert 'href="http' not in body(mailbox.mails[0])
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://airflow.test")
    run_dag(_alert(model, alerting, "drift__2013-08-01"), logical_date=DAY)
    assert "set [api] base_url" not in "".join(capfd.readouterr())
    assert 'href="http' in body(mailbox.mails[1])


def test_a_broken_input_is_told(model, alerting, mailbox, run_dag):
    run_dag(_alert(model, alerting, "", decision="broken_input", reasons=["column tailnum is gone"]), logical_date=DAY)
    (mail,) = mailbox.mails
    assert "input is broken, a person must look" in mail["subject"]
    assert "column tailnum is gone" in body(mail)
    assert "dags/small_training/runs" not in body(mail)


@pytest.mark.parametrize("decision", ["healthy", "cooling_down", "in_flight", "no_budget", "not_judged"])
def test_other_decisions_tell_nobody(model, alerting, mailbox, run_dag, decision):
    _, states = run_dag(_alert(model, alerting, "", decision=decision), logical_date=DAY)
    assert states == {"alert": "skipped"}
    assert mailbox.mails == []


def test_a_retraining_of_an_earlier_run_is_not_told_again(model, alerting, mailbox, run_dag):
    _, states = run_dag(_alert(model, alerting, ""), logical_date=DAY)
    assert states == {"alert": "skipped"}
    assert mailbox.mails == []


def test_a_retraining_that_is_sent_again_is_told(model, alerting, mailbox, run_dag):
    lost = {"run_id": "drift__2013-07-28", "window": {"from": "2013-01-28", "to": "2013-07-26"}}
    dag = _alert(model, alerting, "", resent=lost["run_id"], decision="cooling_down", resend=[lost])
    assert run_dag(dag, logical_date=DAY)[1] == {"alert": "success"}
    (mail,) = mailbox.mails
    assert mail["subject"].startswith("[small] retraining started, because its trigger was lost")
    assert "http://airflow.test/dags/small_training/runs/drift__2013-07-28" in body(mail)
    assert "2013-01-28..2013-07-26" in body(mail)
    run_dag(_alert(model, alerting, "", decision="cooling_down", resend=[lost]), logical_date=DAY)
    assert len(mailbox.mails) == 1


def test_days_that_were_told_as_broken_are_not_told_again(model, alerting, mailbox, run_dag):
    dag = _alert(model, alerting, "", decision="broken_input", reasons=["column tailnum is gone"], news=[])
    assert run_dag(dag, logical_date=DAY)[1] == {"alert": "skipped"}
    assert mailbox.mails == []


def test_without_recipients_the_task_is_skipped_and_its_log_says_what_there_was_to_tell(
    model, platform, run_dag, capfd
):
    _, states = run_dag(_alert(model, platform, "drift__2013-08-01"), logical_date=DAY)
    assert states == {"alert": "skipped"}
    shown = "".join(capfd.readouterr())
    assert "Training run: http://airflow.test/dags/small_training/runs/drift__2013-08-01" in shown
    assert "set smtp_conn_id and alerts_to of the platform" in shown


def test_a_mail_server_that_is_away_fails_the_task(model, alerting, run_dag, monkeypatch):
    monkeypatch.setenv(
        "AIRFLOW_CONN_MAIL",
        json.dumps({"conn_type": "smtp", "host": "127.0.0.1", "port": 9, "extra": PLAIN | {"retry_limit": 1}}),
    )
    _, states = run_dag(_alert(model, alerting, "drift__2013-08-01"), logical_date=DAY)
    assert states == {"alert": "failed"}


@pytest.mark.parametrize(
    ("error", "told"),
    [("BadFile", True), ("DataBroken", True), ("MissingPartition", True), ("BaseError", False), ("JobFailed", False)],
)
def test_a_source_that_is_refused_is_told_by_its_task(model, alerting, mailbox, script, run_dag, error, told):
    script(ingest={"do": "fail", "error": error})
    with DAG("refused", schedule=None) as dag:
        IngestOperator(
            task_id="ingest",
            model=model,
            platform=alerting,
            on_failure_callback=ModelAlertNotifier(model.name, alerting),
        )
    run_dag(dag, logical_date=DAY)
    if not told:
        assert mailbox.mails == []
        return
    (mail,) = mailbox.mails
    assert mail["subject"] == "[small] input is broken, a person must look: no good"
    for part in ("<td>small</td>", "<td>2013-08-01</td>", "<td>row 3</td>", "<li>Mend it.</li>", "Task log: <a href="):
        assert part in body(mail)


def _told_of(run_dag, mailbox, kind, model, platform, **kwargs):
    """The mail about a task of this kind that fails."""
    with DAG(f"fails_{kind.__name__}", schedule=None) as dag:
        kind(
            task_id="reads",
            model=model,
            platform=platform,
            on_failure_callback=ModelAlertNotifier(model.name, platform),
            **kwargs,
        )
    _, states = run_dag(dag, logical_date=DAY)
    assert states == {"reads": "failed"}
    (mail,) = mailbox.mails
    assert "/tasks/reads" in body(mail)
    return mail


@pytest.mark.parametrize("decision", ["retrain", "healthy"])
def test_a_decision_in_a_dag_of_ones_own_tells_by_a_callback(model, alerting, mailbox, script, run_dag, decision):
    script(decide={"summary": DECISION | {"decision": decision}})
    with DAG("decides_and_tells", schedule=None) as dag:
        DecideRetrainingOperator(
            task_id="decide",
            model=model,
            platform=alerting,
            on_success_callback=ModelAlertNotifier(model.name, alerting),
        )
    run_dag(dag, logical_date=DAY)
    if decision == "healthy":
        assert mailbox.mails == []
        return
    (mail,) = mailbox.mails
    assert mail["subject"] == "[small] retraining started, because 12 of 30 columns drifted"
    assert 'Task log: <a href="http://airflow.test/dags/decides_and_tells/runs/' in body(mail)


def test_what_is_told_of_outcomes_names_their_days_and_not_those_of_the_run(model, alerting, mailbox, script, run_dag):
    script(ingest_outcomes={"do": "fail", "error": "BadFile"})
    mail = _told_of(run_dag, mailbox, IngestOutcomesOperator, model, alerting, lag=2)
    assert "<td>2013-07-30</td>" in body(mail)


def test_what_is_told_of_a_refused_day_links_the_page_of_its_anomalies(model, alerting, mailbox, script, run_dag):
    report = {"uri": f"{alerting.base}/anomalies.html", "sha256": "0", "media_type": "text/html"}
    script(validate={"do": "fail", "error": "DataBroken", "reports": {"anomalies": report}})
    mail = _told_of(run_dag, mailbox, ValidateDataOperator, model, alerting)
    assert "/anomalies" in body(mail).partition("Report: <a href=")[2].partition(">")[0]


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_file_that_does_not_come_is_told(model, alerting, mailbox, run_dag, deferrable):
    mail = _told_of(
        run_dag,
        mailbox,
        LandingFileSensor,
        model,
        alerting,
        start="2013-08-03",
        end="2013-08-04",
        timeout=0.2,
        poke_interval=0.1,
        deferrable=deferrable,
    )
    assert "<td>2013-08-03..2013-08-04</td>" in body(mail)
    assert "in vain for 2013-08-03" in mail["subject"]
    assert "ask the owner of the source for the files" in body(mail)


def test_every_task_that_reads_a_source_or_waits_for_it_tells(model):
    dags = model_dags(model)
    telling = {
        (dag_id.removeprefix("small_"), task.task_id)
        for dag_id, dag in dags.items()
        for task in dag.tasks
        if any(isinstance(callback, ModelAlertNotifier) for callback in task.on_failure_callback)
    }
    assert telling == {
        *(("data", task) for task in ("wait_for_landing", "ingest", "ingest_outcomes", "validate")),
        *(("monitoring", task) for task in ("wait_for_labels", "ingest_outcomes")),
    }


# the training that follows


@pytest.fixture
def runs_of(airflow_db):
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    def read(dag_id):
        with create_session() as session:
            rows = session.scalars(select(DagRun).where(DagRun.dag_id == dag_id))
            return {row.run_id: (str(row.state), row.conf, row.note) for row in rows}

    return read


@pytest.fixture
def trigger(run_dag, airflow_db):
    """Run a task that triggers a training DAG of its own; returns the state of the task."""
    numbers = iter(range(100))

    def run(target, summary, **kwargs):
        name = f"decides_{target}_{next(numbers)}"
        with DAG(name, schedule=None) as dag:
            TriggerTrainingOperator(task_id="trigger", trigger_dag_id=target, decision={"summary": summary}, **kwargs)
        return run_dag(dag, logical_date=DAY)[1]["trigger"]

    return run


@pytest.fixture
def target(register_dag, request):
    """A training DAG that nothing runs."""
    from airflow.sdk import BaseOperator

    name = "training_" + "".join(c if c.isalnum() else "_" for c in request.node.name)[-40:]
    with DAG(name, schedule=None) as dag:
        BaseOperator(task_id="train")
    register_dag(dag)
    return name


def test_a_decision_starts_its_training_once(target, trigger, runs_of):
    assert trigger(target, DECISION) == "success"
    (run_id, (state, conf, note)), *others = runs_of(target).items()
    assert not others
    starter = conf.pop("triggered_by")
    assert starter["dag_id"].startswith("decides_")
    assert (run_id, state, conf) == ("drift__2013-08-01", "queued", {"from": "2013-02-01", "to": "2013-07-30"})
    assert note == "12 of 30 columns drifted"
    assert trigger(target, DECISION) == "skipped"
    assert list(runs_of(target)) == ["drift__2013-08-01"]


@pytest.mark.parametrize("decision", ["healthy", "broken_input", "in_flight"])
def test_other_decisions_start_nothing(target, trigger, runs_of, decision):
    assert trigger(target, DECISION | {"decision": decision}) == "skipped"
    assert runs_of(target) == {}


@pytest.mark.parametrize("resend", [False, True])
def test_a_try_that_was_killed_after_it_started_the_run_has_started_it(target, run_dag, runs_of, resend):
    """The second task of the run asks for what the first one has started, as a retry does; another run finds it too."""
    lost = {"run_id": DECISION["run_id"], "window": DECISION["window"]}
    summary = DECISION | ({"decision": "cooling_down", "resend": [lost]} if resend else {})

    def decides(name):
        fixed = {"trigger_dag_id": target, "decision": {"summary": summary}, "resend": resend}
        with DAG(name, schedule=None) as dag:
            first, retry = (TriggerTrainingOperator(task_id=task, **fixed) for task in ("killed", "retry"))
            first >> retry
        retry.trigger_rule = TriggerRule.ALL_DONE
        run, states = run_dag(dag, logical_date=DAY)
        pulled = {ti.task_id: ti.xcom_pull(task_ids=ti.task_id, key="started") for ti in run.get_task_instances()}
        return states, pulled

    states, started = decides(f"killed_{resend}")
    assert states == {"killed": "success", "retry": "success"}
    assert started["retry"] == DECISION["run_id"]
    states, started = decides(f"another_{resend}")
    assert states == {"killed": "skipped", "retry": "skipped"}
    assert not started["retry"]
    assert list(runs_of(target)) == [DECISION["run_id"]]


def test_a_trigger_that_was_lost_is_sent_again(target, trigger, runs_of):
    lost = {"run_id": "drift__2013-07-28", "window": {"from": "2013-01-28", "to": "2013-07-26"}}
    summary = DECISION | {"decision": "cooling_down", "resend": [lost]}
    assert trigger(target, summary, resend=True) == "success"
    assert lost["window"].items() <= runs_of(target)["drift__2013-07-28"][1].items()
    assert trigger(target, summary, resend=True) == "skipped"


def test_a_failed_training_is_run_again_for_its_own_window_only(target, trigger, runs_of):
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import update

    assert trigger(target, DECISION) == "success"
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.dag_id == target).values(state="failed"))
    again = {"run_id": DECISION["run_id"], "window": DECISION["window"]}
    assert trigger(target, DECISION | {"decision": "cooling_down", "resend": [again]}, resend=True) == "skipped"
    assert runs_of(target)["drift__2013-08-01"][0] == "failed"
    assert trigger(target, DECISION) == "success"
    assert runs_of(target)["drift__2013-08-01"][0] == "queued"


# notes


def test_a_verdict_stands_after_what_others_wrote():
    assert with_verdicts("", ["small: rejected\n- too bad"]) == "airflow-ml: small: rejected\n- too bad"
    note = with_verdicts("ann looked at it", ["small: rejected"])
    assert note == "ann looked at it\n\nairflow-ml: small: rejected"
    assert with_verdicts(note, ["small: passed"]) == "ann looked at it\n\nairflow-ml: small: passed"


def test_a_note_fits_airflows_column():
    assert len(with_verdicts("x" * 300, ["y" * 2000])) <= LONGEST
    assert len(with_verdicts("x" * LONGEST, ["y"])) <= LONGEST


def test_the_run_says_rejected(model, platform, script, run_dag, runs_of):
    script(
        gates={"summary": {"verdict": "rejected", "reasons": ["roc_auc 0.6 < 0.7"]}},
        register={"summary": {"verdict": "rejected", "version": 3}},
    )
    run, _ = run_dag(model_dags(model, platform)["small_training"], run_conf={"from": "2013-01-01", "to": "2013-03-01"})
    assert runs_of("small_training")[run.run_id] == (
        "success",
        {"from": "2013-01-01", "to": "2013-03-01"},
        "airflow-ml: small: rejected\n- roc_auc 0.6 < 0.7",
    )
