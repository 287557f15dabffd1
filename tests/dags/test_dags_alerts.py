"""Alerts over a real SMTP server, the training that a decision starts, and the notes of runs."""

import email
import email.policy
import json
import socket
from datetime import UTC, datetime

import pytest
from aiosmtpd.controller import Controller
from airflow.sdk import DAG, TriggerRule

from airflow_ml.operators import IngestOperator, SendAlertOperator, TriggerTrainingOperator
from airflow_ml.spec import Alerts
from airflow_ml.ui.notes import LONGEST, with_verdicts

DAY = datetime(2013, 8, 1, tzinfo=UTC)
DECISION = {
    "decision": "retrain",
    "reasons": ["12 of 30 columns drifted"],
    "run_id": "drift__2013-08-01",
    "window": {"from": "2013-02-01", "to": "2013-07-30"},
    "monitored": {"from": "2013-07-26", "to": "2013-08-01"},
    "resend": [],
}
PLAIN = {"disable_tls": True, "disable_ssl": True}
MONITORING = {"reports": ["drift"], "request": "0" * 32}


class Mailbox:
    """Keeps what it is sent."""

    def __init__(self):
        self.mails = []

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - aiosmtpd's name
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"


@pytest.fixture
def mailbox(monkeypatch):
    """A mail server on loopback, and an Airflow connection to it."""
    box = Mailbox()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    monkeypatch.setenv(
        "AIRFLOW_CONN_MAIL",
        json.dumps({"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": PLAIN}),
    )
    yield box
    controller.stop()


@pytest.fixture
def alerting(platform):
    return platform.model_copy(
        update={"alerts": Alerts(smtp_conn_id="mail", to=("ml@example.com",), sender="af@example.com")}
    )


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
    body = mail.get_body(("html",)).get_content()
    for part in (
        "drift__2013-08-01",
        "2013-07-26..2013-08-01",
        f"http://airflow.test/airflow-ml/reports/alert/small/{'0' * 32}/drift",
    ):
        assert part in body


def test_a_broken_input_is_told(model, alerting, mailbox, run_dag):
    run_dag(_alert(model, alerting, "", decision="broken_input", reasons=["column tailnum is gone"]), logical_date=DAY)
    (mail,) = mailbox.mails
    assert "input is broken, a person must look" in mail["subject"]
    assert "column tailnum is gone" in mail.get_body(("html",)).get_content()


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
    body = mail.get_body(("html",)).get_content()
    assert "drift__2013-07-28" in body
    assert "2013-01-28..2013-07-26" in body
    run_dag(_alert(model, alerting, "", decision="cooling_down", resend=[lost]), logical_date=DAY)
    assert len(mailbox.mails) == 1


def test_days_that_were_told_as_broken_are_not_told_again(model, alerting, mailbox, run_dag):
    dag = _alert(model, alerting, "", decision="broken_input", reasons=["column tailnum is gone"], news=[])
    assert run_dag(dag, logical_date=DAY)[1] == {"alert": "skipped"}
    assert mailbox.mails == []


def test_without_recipients_the_task_is_skipped(model, platform, run_dag):
    _, states = run_dag(_alert(model, platform, "drift__2013-08-01"), logical_date=DAY)
    assert states == {"alert": "skipped"}


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
    from airflow_ml.notifications import ModelAlertNotifier

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
    body = mail.get_body(("html",)).get_content()
    assert "input is broken" in mail["subject"]
    assert "no good" in body
    assert "2013-08-01" in body


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
    from airflow_ml.pipelines import model_dags

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
