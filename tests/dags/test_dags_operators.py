"""Operators in real task runs, over stages that do what a script says."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from airflow.sdk import DAG

from airflow_ml.hooks.platform import PlatformHook
from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.lifecycle.requests import Coordinates, JobRequest
from airflow_ml.operators import (
    CheckGatesOperator,
    IngestOperator,
    IngestOutcomesOperator,
    MonitorModelOperator,
    ReleaseModelOperator,
    ScoreOperator,
    TrainModelOperator,
    ValidateDataOperator,
)
from airflow_ml.pipelines import model_dags
from airflow_ml.stages._files import wanted_version
from airflow_ml.stages.context import StageContext
from tests.support.elsewhere import Queue

DAY = datetime(2013, 8, 1, tzinfo=UTC)


@pytest.fixture
def xcoms(airflow_db):
    """What the tasks of a run have pushed, by task and key."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    def read(run):
        with create_session() as session:
            rows = session.scalars(
                select(XComModel).where(XComModel.run_id == run.run_id, XComModel.dag_id == run.dag_id)
            )
            return {(row.task_id, row.key): XComModel.deserialize_value(row) for row in rows}

    return read


def test_a_training_run_hands_one_window_and_its_results_from_stage_to_stage(
    model, platform, script, run_dag, requests_sent, xcoms
):
    script(
        register={"summary": {"verdict": "passed", "version": 3}},
        gates={"summary": {"verdict": "passed", "reasons": []}},
    )
    dag = model_dags(model, platform)["small_training"]
    run, states = run_dag(dag, run_conf={"from": "2013-01-01", "to": "2013-03-01"})
    assert set(states.values()) == {"success"}
    sent = requests_sent()
    order = list(sent)
    assert set(order[2:4]) == {"evaluate", "export"}, "side by side, whichever begins first"
    assert [*order[:2], *order[4:]] == ["training_set", "train", "gates", "register", "release"]
    assert [request["window"] for request in sent.values()] == [{"from": "2013-01-01", "to": "2013-03-01"}] * 7
    pushed = xcoms(run)
    assert sent["register"]["inputs"] == {
        stage: pushed[task, "return_value"]["uri"]
        for stage, task in {
            "training_set": "build_training_set",
            "train": "train",
            "evaluate": "evaluate",
            "export": "export",
            "gates": "check_gates",
        }.items()
    }
    assert sent["train"]["coordinates"]["task_id"] == "train"
    assert pushed["check_gates", "airflow_ml_note"] == "small: passed"


def test_a_rejected_model_is_registered_and_not_released_and_the_run_is_a_success(
    model, platform, script, run_dag, requests_sent
):
    script(
        gates={"summary": {"verdict": "rejected", "reasons": ["roc_auc 0.6 < 0.7"]}},
        register={"summary": {"verdict": "rejected", "version": 3}},
    )
    run, states = run_dag(
        model_dags(model, platform)["small_training"], run_conf={"from": "2013-01-01", "to": "2013-03-01"}
    )
    assert run.state == "success"
    assert states["release"] == "skipped"
    assert {state for task, state in states.items() if task != "release"} == {"success"}
    assert "release" not in requests_sent()


def test_training_parameters_of_the_form_reach_the_training_and_the_declaration_stays(
    platform, script, run_dag, requests_sent
):
    from airflow_ml import Horovod
    from tests.support.models import small_model

    model = small_model(training=Horovod(params={"epochs": 8, "batch_size": 512}))
    script(register={"summary": {"verdict": "passed", "version": 3}})
    run_dag(
        model_dags(model, platform)["small_training"], run_conf={"from": "2013-01-01", "to": "2013-03-01", "epochs": 2}
    )
    sent = requests_sent()
    assert sent["train"]["params"] == {"training": {"epochs": 2}}
    assert [request["model"]["training"]["params"] for request in sent.values()] == [
        {"epochs": 8, "batch_size": 512}
    ] * 7


def test_without_dates_training_takes_the_declared_days_up_to_the_newest_labels(
    model, platform, run_dag, requests_sent, committed
):
    from airflow_ml.operators import BuildTrainingSetOperator

    committed("outcomes", "2013-07-29", "2013-07-30")
    with DAG("newest", schedule=None) as dag:
        BuildTrainingSetOperator(task_id="build", model=model, platform=platform)
    run_dag(dag, logical_date=None)
    assert requests_sent()["training_set"]["window"] == {"from": "2013-02-01", "to": "2013-07-30"}


def test_a_run_of_the_past_trains_on_what_was_known_then(model, platform, run_dag, requests_sent, committed):
    from airflow_ml.operators import BuildTrainingSetOperator

    committed("outcomes", "2013-07-30", "2013-09-30")
    with DAG("past", schedule=None) as dag:
        BuildTrainingSetOperator(task_id="build", model=model, platform=platform)
    run_dag(dag, logical_date=DAY)
    assert requests_sent()["training_set"]["window"]["to"] == "2013-07-30"


def test_the_window_is_the_logical_date_unless_params_say_otherwise(model, platform, run_dag, requests_sent):
    with DAG("window", schedule=None, params={"from": None, "to": None}) as dag:
        ScoreOperator(task_id="score", model=model, platform=platform)
    run_dag(dag, logical_date=DAY)
    assert requests_sent()["score"]["window"] == {"from": "2013-08-01", "to": "2013-08-01"}
    run_dag(dag, logical_date=DAY.replace(day=2), run_conf={"from": "2013-02-01", "to": "2013-02-03"})
    assert requests_sent()["score"]["window"] == {"from": "2013-02-01", "to": "2013-02-03"}


@pytest.mark.parametrize(
    ("day", "window"),
    [("2013-01-02", None), ("2013-01-03", ("2013-01-01", "2013-01-01")), ("2013-08-01", ("2013-07-30", "2013-07-30"))],
)
def test_outcomes_of_a_data_run_are_those_known_at_its_midnight(model, platform, run_dag, requests_sent, day, window):
    with DAG("outcomes", schedule=None) as dag:
        IngestOutcomesOperator(task_id="outcomes", model=model, platform=platform, lag=2)
    _, states = run_dag(dag, logical_date=datetime.fromisoformat(day).replace(tzinfo=UTC))
    if window is None:
        assert states["outcomes"] == "skipped"
    else:
        assert requests_sent()["ingest_outcomes"]["window"] == {"from": window[0], "to": window[1]}


def test_outcomes_of_history_begin_with_the_model(model, platform, run_dag, requests_sent):
    with DAG("bulk", schedule=None, params={"from": "2013-01-01", "to": "2013-06-30"}) as dag:
        IngestOutcomesOperator(task_id="outcomes", model=model, platform=platform, lag=2)
    run_dag(dag, logical_date=None)
    assert requests_sent()["ingest_outcomes"]["window"] == {"from": "2013-01-01", "to": "2013-06-28"}


def test_monitoring_looks_back(model, platform, run_dag, requests_sent):
    with DAG("looks_back", schedule=None) as dag:
        MonitorModelOperator(task_id="monitor", model=model, platform=platform)
    run_dag(dag, logical_date=DAY)
    assert requests_sent()["monitor"]["window"] == {"from": "2013-07-26", "to": "2013-08-01"}


@pytest.mark.parametrize(
    ("error", "state"), [("SpecError", "failed"), ("DataBroken", "failed"), ("BadFile", "up_for_retry")]
)
def test_only_what_may_pass_is_tried_again(model, platform, script, airflow_db, error, state):
    """`dag.test` runs on after a failure, so the state of the first try is looked at where the exception is made."""
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    from airflow_ml.lifecycle import errors
    from airflow_ml.operators.errors import as_airflow

    raised = as_airflow(getattr(errors, error)("no good", "row 3", "mend it"))
    assert isinstance(raised, AirflowException)
    assert isinstance(raised, AirflowFailException) == (state == "failed")
    assert str(raised) == f"{error}: row 3: no good. Remedy: mend it"


def test_a_stage_that_fails_fails_its_task(model, platform, script, run_dag, caplog):
    script(ingest={"do": "fail", "error": "SpecError"})
    with DAG("fails", schedule=None) as dag:
        IngestOperator(task_id="ingest", model=model, platform=platform)
    run, states = run_dag(dag, logical_date=DAY)
    assert states == {"ingest": "failed"}
    assert run.state == "failed"


def test_a_partition_outside_the_model_is_refused_and_not_waited_for(model, platform, run_dag, requests_sent):
    with DAG("outside", schedule=None) as dag:
        IngestOperator(task_id="ingest", model=model, platform=platform)
    _, states = run_dag(dag, logical_date=datetime(2026, 1, 1, tzinfo=UTC))
    assert states == {"ingest": "failed"}
    assert requests_sent() == {}


def test_a_release_by_hand_without_a_version_is_refused_before_anything_is_sent(
    model, platform, run_dag, requests_sent
):
    with DAG("bare", schedule=None) as dag:
        ReleaseModelOperator(task_id="release", model=model, platform=platform, stage_params={"version": ""})
    _, states = run_dag(dag, logical_date=DAY)
    assert states == {"release": "failed"}
    assert requests_sent() == {}


@pytest.mark.parametrize(
    ("params", "version"),
    [({}, None), ({"version": ""}, None), ({"version": 3}, 3), ({"version": "12", "reason": "better"}, 12)],
)
def test_a_stage_takes_a_version(model, platform, params, version):
    assert wanted_version(_context(model, platform, params)) == version


@pytest.mark.parametrize("params", [{"version": v} for v in (1.9, True, "1.9", "-1", "²", [1])])
def test_a_stage_refuses_what_is_no_version(model, platform, params):
    with pytest.raises(SpecError, match="whole number"):
        wanted_version(_context(model, platform, params))


def _context(model, platform, params):
    request = JobRequest(
        stage="release",
        model=model,
        platform=platform,
        params=params,
        coordinates=Coordinates(dag_id="d", task_id="t", run_id="r", try_number=1),
    )
    return StageContext(request)


def test_the_xcom_is_small_and_the_links_are_there(model, platform, script, run_dag, xcoms):
    report = {"uri": f"{platform.base}/r.html", "sha256": "0", "media_type": "text/html"}
    script(gates={"summary": {"verdict": "passed", "long": ["x" * 100] * 100}, "reports": {"gates": report}})
    with DAG("links", schedule=None) as dag:
        CheckGatesOperator(task_id="gates", model=model, platform=platform, start="2013-01-01", end="2013-03-01")
    run, _ = run_dag(dag, logical_date=DAY)
    pushed = xcoms(run)
    result = pushed["gates", "return_value"]
    assert "long" not in result["summary"]
    assert result["reports"] == ["gates"]
    assert pushed["gates", "_link_ReportLink"] == (
        f"http://airflow.test/airflow-ml/reports/links/small/{result['request']}/gates"
    )
    assert not pushed["gates", "_link_MLflowRunLink"]


def test_every_report_of_monitoring_opens_from_its_task(
    model, platform, script, run_dag, xcoms, client, token, monkeypatch
):
    monkeypatch.setenv("AIRFLOW__AIRFLOW_ML__BASE", platform.base)
    pages = {name: Path(platform.base) / f"{name}.html" for name in ("drift", "performance")}
    for name, page in pages.items():
        page.write_text(f"<p>{name}</p>")
    named = {name: {"uri": str(page), "sha256": "0", "media_type": "text/html"} for name, page in pages.items()}
    script(monitor={"reports": named})
    with DAG("watched", schedule=None) as dag:
        watch = MonitorModelOperator(task_id="monitor", model=model, platform=platform)
    run, _ = run_dag(dag, logical_date=DAY)
    links = [xcoms(run)["monitor", link.xcom_key] for link in watch.operator_extra_links]
    viewer = {"Authorization": f"Bearer {token('viewer')}"}
    seen = [client.get(link.removeprefix("http://airflow.test"), headers=viewer).text for link in links if link]
    assert sorted(seen) == ["<p>drift</p>", "<p>performance</p>"]


def test_the_run_in_mlflow_is_linked_while_the_training_runs(model, platform, script, run_dag, xcoms):
    """The job fails after it has named its run: the link was there before."""
    script(train={"do": "fail", "error": "TrainingFailed", "first": [f"INFO MLflow run {'a' * 32}"]})
    with DAG("early", schedule=None) as dag:
        TrainModelOperator(
            task_id="train",
            model=model,
            platform=platform.model_copy(update={"registry_ui": "http://mlflow:5000"}),
            start="2013-01-01",
            end="2013-03-01",
        )
    run, _ = run_dag(dag, logical_date=DAY)
    assert xcoms(run)["train", "_link_MLflowRunLink"] == f"http://mlflow:5000/#/runs/{'a' * 32}"


def test_the_page_of_a_refusal_is_linked(model, platform, script, run_dag, xcoms):
    report = {"uri": f"{platform.base}/anomalies.html", "sha256": "0", "media_type": "text/html"}
    script(validate={"do": "fail", "error": "DataBroken", "reports": {"anomalies": report}})
    with DAG("refused_day", schedule=None) as dag:
        ValidateDataOperator(task_id="validate", model=model, platform=platform)
    run, states = run_dag(dag, logical_date=DAY)
    assert states == {"validate": "failed"}
    link = xcoms(run)["validate", "_link_ReportLink"]
    assert link.startswith("http://airflow.test/airflow-ml/reports/refused_day/small/")
    assert link.endswith("/anomalies")


def test_a_job_that_hangs_is_ended(model, platform, script, run_dag, tmp_path):
    script(ingest={"do": "family", "tag": str(tmp_path), "ready": str(tmp_path / "ready")})
    with DAG("hangs", schedule=None) as dag:
        IngestOperator(task_id="ingest", model=model, platform=platform, execution_timeout=timedelta(seconds=3))
    _, states = run_dag(dag, logical_date=DAY)
    assert states == {"ingest": "failed"}
    assert (tmp_path / "ready").exists()
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _read(path)]
    assert left == []


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_local_process_is_waited_for_in_the_worker_whatever_deferrable_says(model, platform, run_dag, capfd):
    with DAG("stays", schedule=None) as dag:
        IngestOperator(task_id="ingest", model=model, platform=platform, deferrable=True)
    _, states = run_dag(dag, logical_date=DAY)
    assert states == {"ingest": "success"}
    shown = "".join(capfd.readouterr())
    assert "the job ends with its task, so the task waits for it in the worker" in shown
    assert "[DAG TEST] running trigger" not in shown


def test_a_job_that_outlives_its_task_is_waited_for_by_the_trigger_of_its_compute(
    model, platform, script, run_dag, monkeypatch
):
    """Whatever the compute is: the operator knows none of them."""
    monkeypatch.setattr(PlatformHook, "compute", lambda hook, stage, kind: Queue(hook.platform.compute))
    script(ingest={"do": "sleep", "seconds": 1})
    with DAG("queued", schedule=None) as dag:
        IngestOperator(task_id="ingest", model=model, platform=platform, deferrable=True)
    _, states = run_dag(dag, logical_date=DAY)
    assert states == {"ingest": "success"}
    assert len(list(Path(platform.base).rglob("waited"))) == 1


def test_mlflow_links_need_a_server(platform):
    from airflow_ml.lifecycle.requests import JobResult
    from airflow_ml.operators.links import links_of

    result = JobResult(
        stage="register",
        model="small",
        fingerprint="f",
        spec_hash="5",
        code_version="1",
        summary={"version": 3, "mlflow_run_id": "abc"},
    )
    assert links_of(result, platform, "d", "r") == {}
    served = platform.model_copy(update={"registry_ui": "http://mlflow:5000/"})
    assert links_of(result, served, "d", "r") == {
        "_link_MLflowRunLink": "http://mlflow:5000/#/runs/abc",
        "_link_ModelVersionLink": "http://mlflow:5000/#/models/small/versions/3",
    }


def test_a_secret_reaches_the_job_and_no_request_xcom_template_or_log(
    model, platform, script, run_dag, xcoms, monkeypatch, capfd
):
    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.utils.session import create_session

    secret = "planted-7f3a91"
    monkeypatch.setenv("AIRFLOW_CONN_VAULT", f'{{"conn_type": "http", "password": "{secret}"}}')
    script(ingest={"count": ["TOKEN"], "tell": ["TOKEN"]})
    with DAG("secret", schedule=None) as dag:
        IngestOperator(
            task_id="ingest", model=model, platform=platform.model_copy(update={"connections": {"TOKEN": "vault"}})
        )
    run, states = run_dag(dag, logical_date=DAY)
    assert states == {"ingest": "success"}
    written = [path for path in Path(platform.base).rglob("*") if path.is_file()]
    assert any(path.name == "request.json" for path in written)
    assert not [path for path in written if secret in path.read_text()]
    pushed = xcoms(run)
    assert pushed["ingest", "return_value"]["summary"]["characters"] == {"TOKEN": len(secret)}
    with create_session() as session:
        rendered = [str(row.rendered_fields) for row in session.query(RenderedTaskInstanceFields)]
    assert rendered
    assert secret not in str(pushed) + str(rendered)
    shown = "".join(capfd.readouterr())
    assert f"the token has {len(secret)} characters: ***" in shown
    assert secret not in shown


@pytest.mark.parametrize("operator", [IngestOperator, TrainModelOperator, ReleaseModelOperator])
def test_a_connection_may_describe_the_platform(model, platform, operator, run_dag, requests_sent, monkeypatch):
    import json

    extra = {"base": platform.base, "python": platform.compute.python}
    monkeypatch.setenv("AIRFLOW_CONN_ML_HERE", json.dumps({"conn_type": "airflow_ml", "extra": extra}))
    named = {"stage_params": {"version": 1}} if operator is ReleaseModelOperator else {}
    with DAG("connected", schedule=None) as dag:
        operator(task_id="go", model=model, airflow_ml_conn_id="ml_here", start="2013-01-01", end="2013-03-01", **named)
    _, states = run_dag(dag, logical_date=DAY)
    assert states == {"go": "success"}
    assert len(requests_sent()) == 1
