"""What `model_dags` declares: schedules, retries, forms, and templates that any run can render."""

import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG, CronDataIntervalTimetable, CronTriggerTimetable, Param, TriggerRule
from airflow.sdk.definitions.param import ParamsDict

from airflow_ml import operators, pipelines, sensors
from airflow_ml.examples.flights.model import flights
from airflow_ml.operators.stage import StageOperator
from airflow_ml.pipelines import model_dags
from airflow_ml.pipelines.timetables import DayOverUntil, MidnightUntil
from airflow_ml.sensors.readiness import ReadinessSensor
from airflow_ml.spec import Canary, Serving
from tests.support.models import small_model

REPOSITORY = Path(__file__).parents[2]
HEAVY = (
    "deltalake",
    "evidently",
    "fastapi",
    "feast",
    "grpc",
    "kubernetes",
    "mlflow",
    "numpy",
    "pandas",
    "polars",
    "pyarrow",
    "pyspark",
    "requests",
    "sklearn",
    "tensorflow",
    "torch",
)
OURS = [getattr(operators, name) for name in operators.__all__] + [getattr(sensors, name) for name in sensors.__all__]


@pytest.fixture(scope="module")
def dags():
    return model_dags(small_model(end="2013-12-31"))


def test_the_example_parses_without_errors(airflow_db):
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(REPOSITORY / "dags"))
    assert bag.import_errors == {}
    assert sorted(bag.dags) == [f"flights_{what}" for what in ("data", "monitoring", "release", "scoring", "training")]
    for dag in bag.dags.values():
        assert dag.doc_md
        assert {"airflow-ml", "model:flights"} <= dag.tags


def test_parsing_imports_no_engine():
    code = "import json, runpy, sys; runpy.run_path('dags/flights_dags.py'); print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    modules = {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    assert "airflow_ml" in modules
    assert not modules & set(HEAVY)


def test_schedules_are_explicit_and_nothing_catches_up(dags):
    schedules = {name.removeprefix("small_"): type(dag.timetable) for name, dag in dags.items()}
    assert schedules["data"] is schedules["scoring"] is MidnightUntil
    assert schedules["monitoring"] is DayOverUntil
    assert {dags["small_training"].schedule, dags["small_release"].schedule} == {None}
    assert not any(dag.catchup for dag in dags.values())
    endless = model_dags(small_model())
    assert type(endless["small_data"].timetable) is CronTriggerTimetable
    assert type(endless["small_monitoring"].timetable) is CronDataIntervalTimetable


def test_one_training_and_one_decision_at_a_time(dags):
    assert dags["small_training"].max_active_runs == 1
    assert dags["small_monitoring"].max_active_runs == 1


def test_every_task_is_tried_again(dags):
    tasks = [task for dag in dags.values() for task in dag.tasks]
    assert len(tasks) == 24
    assert all(task.retries >= 2 and task.retry_delay.total_seconds() == 10 for task in tasks)
    assert all(task.execution_timeout == timedelta(hours=12) for task in tasks)


def test_a_night_that_was_not_scored_holds_nobody_up(dags):
    monitoring = dags["small_monitoring"]
    waits = monitoring.get_task("wait_for_predictions")
    assert waits.soft_fail
    assert waits.timeout <= 3600
    assert monitoring.get_task("monitor").trigger_rule == TriggerRule.NONE_FAILED
    assert monitoring.get_task("monitor").upstream_task_ids == {"ingest_outcomes", "join_feedback"}


@pytest.mark.parametrize("kind", [MidnightUntil, DayOverUntil])
def test_a_schedule_ends_with_the_source_and_survives_serialization(kind):
    from airflow.timetables.base import TimeRestriction

    timetable = kind.deserialize(kind(date(2013, 12, 31)).serialize())
    restriction = TimeRestriction(None, None, catchup=False)
    assert timetable.next_dagrun_info(last_automated_data_interval=None, restriction=restriction) is None
    # As a backfill walks it, asked for more days than there are.
    bounded = TimeRestriction(_moment(2013, 12, 30), _moment(2014, 1, 5), catchup=True)
    days, last = [], None
    while (run := timetable.next_dagrun_info(last_automated_data_interval=last, restriction=bounded)) is not None:
        days.append(run.logical_date.date())
        last = run.data_interval
    assert days == [date(2013, 12, 30), date(2013, 12, 31)]


def _moment(*parts):
    from airflow._shared.timezones.timezone import coerce_datetime

    return coerce_datetime(datetime(*parts, tzinfo=UTC))


def test_params_are_forms(dags):
    form = dags["small_data"].params
    param = form.get_param("from")
    assert isinstance(param, Param)
    assert param.schema == {"title": "From", "type": ["string", "null"], "format": "date"}
    with pytest.raises(ValueError, match="date"):
        ParamsDict({"from": Param("01.02.2013", **param.schema)}).validate()
    assert dags["small_release"].params.get_param("version").schema["type"] == ["integer", "null"]


@pytest.mark.parametrize("conf", [{"version": "2"}, {"version": 0}, {"version": 1.5}])
def test_a_release_of_no_version_is_refused_by_the_trigger(dags, register_dag, client, token, conf):
    register_dag(dags["small_release"])
    answer = client.post(
        "/api/v2/dags/small_release/dagRuns",
        json={"logical_date": None, "conf": conf},
        headers={"Authorization": f"Bearer {token('admin')}"},
    )
    assert answer.status_code == 400, answer.text
    assert "version" in answer.text or "No value passed" in answer.text


def test_training_parameters_of_plain_types_are_in_the_form():
    from airflow_ml import Horovod

    model = small_model(
        training=Horovod(params={"epochs": 8, "rate": 0.1, "hidden": [64, 32], "name": "x", "amp": True})
    )
    params = model_dags(model)["small_training"].params
    types = {name: params.get_param(name).schema["type"] for name in params}
    assert types == {
        "from": ["string", "null"],
        "to": ["string", "null"],
        "epochs": ["integer", "null"],
        "rate": ["number", "null"],
        "name": ["string", "null"],
        "amp": ["boolean", "null"],
    }


class Upstream:
    """Stands for the task instance in templates: every other task has returned something, and pushed nothing else."""

    def xcom_pull(self, *, task_ids, key="return_value", default=None, **_):
        return {"uri": f"/result/of/{task_ids}"} if key == "return_value" else default


def _context(dag, **dates):
    params = {name: dag.params.get_param(name).resolve(suppress_exception=True) for name in dag.params}
    return {"params": params, "ti": Upstream(), "dag_run": SimpleNamespace(triggering_user_name=None), **dates}


ASKED = small_model(
    name="asked", end="2013-12-31", serving=Serving(canary=Canary(steps=(0.1, 0.5))), approval="above:0.1"
)


@pytest.mark.parametrize("declared", [small_model(end="2013-12-31"), flights, ASKED], ids=lambda model: model.name)
@pytest.mark.parametrize("dates", [{}, {"ds": "2013-08-01"}], ids=["without a logical date", "with one"])
def test_every_template_field_of_every_dag_renders(declared, dates):
    """`test_dags_windows` does it in real runs; here nothing can be skipped by a task that is not reached."""
    rendered = 0
    for dag in model_dags(declared).values():
        for task in dag.tasks:
            copy = task.prepare_for_execution()
            copy.render_template_fields(_context(dag, **dates), dag.get_template_env())
            for name in task.template_fields:
                given, value = getattr(task, name), getattr(copy, name)
                assert not _templates(value), f"{dag.dag_id}.{task.task_id}.{name}: {value}"
                rendered += _templates(given)
            if hasattr(copy, "start") and dag.dag_id.endswith(("_data", "_scoring", "_monitoring")):
                assert (copy.start, copy.end) == (dates.get("ds", ""), dates.get("ds", ""))
    assert rendered > 40


def _templates(value):
    """Whether something in it is still to be rendered."""
    from airflow.sdk import XComArg

    return "{{" in str(value) or any(True for _ in XComArg.iter_xcom_references(value))


@pytest.mark.parametrize("operator", OURS, ids=lambda operator: operator.__name__)
def test_every_operator_is_templated(operator):
    assert operator.template_fields
    if issubclass(operator, StageOperator | ReadinessSensor):
        assert {"start", "end", "airflow_ml_conn_id"} <= set(operator.template_fields)


@pytest.mark.parametrize("default", ["True", "False"])
def test_every_operator_that_may_defer_honours_the_default(monkeypatch, default):
    """The default is read when a module is imported, so each is looked at in a fresh interpreter."""
    code = """
import json
from airflow_ml import operators, sensors
from tests.support.models import small_model
found = {}
for module in (operators, sensors):
    for name in module.__all__:
        given = {"trigger_dag_id": "x"} if name == "TriggerTrainingOperator" else {"model": small_model()}
        given |= {"decision": {}} if name in ("TriggerTrainingOperator", "SendAlertOperator") else {}
        given |= {"table": "raw"} if name == "PartitionCommittedSensor" else {}
        given |= {"rows": []} if name == "PredictOperator" else {}
        made = getattr(module, name)(task_id=name, **given)
        found[name] = getattr(made, "deferrable", None)
print(json.dumps(found))
"""
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", default)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    found = json.loads(done.stdout.splitlines()[-1])
    # Airflow parks an approval by itself; the others do not wait.
    never = {"SendAlertOperator", "ApproveReleaseOperator", "PredictOperator"}
    assert {name for name, deferrable in found.items() if deferrable is None} == never
    assert found == dict.fromkeys(found, default == "True") | dict.fromkeys(never)


def test_pipelines_are_task_groups_of_ones_own_dag():
    model = small_model()
    with DAG("mine", schedule=None) as dag:
        data = pipelines.data_pipeline(model)
        training = pipelines.training_pipeline(model, retries=5, execution_timeout=timedelta(days=2))
        data >> training >> pipelines.scoring_pipeline(model, group_id="nightly")
        pipelines.monitoring_pipeline(model)
    assert dag.get_task("small_training.train").retries == 5
    assert dag.get_task("small_training.train").execution_timeout == timedelta(days=2)
    assert dag.get_task("small_data.ingest").retries == 2
    assert dag.get_task("nightly.wait_for_features").upstream_task_ids == {"small_training.release"}
    assert "small_monitoring.trigger_training" in dag.get_task("small_monitoring.alert").started
    assert "small_monitoring.resend_training" in dag.get_task("small_monitoring.alert").resent


def test_two_models_live_side_by_side():
    both = model_dags(small_model()) | model_dags(small_model(name="other"))
    assert len(both) == 10


def test_the_bench_of_overhead_runs_the_tasks_of_the_training_dag():
    from tests.bench.overhead import DAG_ID, TASKS

    assert sorted(model_dags(flights)[DAG_ID].task_ids) == sorted(TASKS.values())
