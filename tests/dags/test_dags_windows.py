"""Runs without a logical date: every DAG of a model goes by its params, or says that it needs them."""

from pathlib import Path

import pytest

from airflow_ml.pipelines import model_dags
from tests.support.released import record

WINDOW = {"from": "2013-08-01", "to": "2013-08-02"}
CONF = {
    "data": WINDOW,
    "training": {"from": "2013-01-01", "to": "2013-03-01"},
    "scoring": {**WINDOW, "version": 2},
    "monitoring": WINDOW,
    "release": {"version": 2, "reason": "it is better"},
}
SKIPPED = {"monitoring": {"trigger_training", "resend_training", "alert"}}


@pytest.fixture
def rendered(airflow_db):
    """The template fields of a run's tasks, as Airflow has stored them."""
    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.utils.session import create_session
    from sqlalchemy import select

    def read(run):
        with create_session() as session:
            rows = session.scalars(
                select(RenderedTaskInstanceFields).where(
                    RenderedTaskInstanceFields.dag_id == run.dag_id, RenderedTaskInstanceFields.run_id == run.run_id
                )
            )
            return {row.task_id: row.rendered_fields for row in rows}

    return read


@pytest.mark.parametrize("what", CONF)
def test_a_run_with_params_alone_renders_every_template(
    model, platform, script, run_dag, committed, requests_sent, rendered, what
):
    for day in WINDOW.values():
        file = Path(platform.landing_root, f"raw/{day}.csv.gz")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for table in ("features", "predictions", "outcomes"):
        committed(table, *WINDOW.values())
    record(platform, model.name, 2)
    script(
        rollout={"summary": {"version": 2, "state": "kept", "open": False}},
        register={"summary": {"verdict": "passed", "version": 2}},
        decide={"summary": {"decision": "healthy", "reasons": ["passed: data_drift"], "resend": []}},
    )
    dag = model_dags(model, platform)[f"small_{what}"]
    run, states = run_dag(dag, logical_date=None, run_conf=CONF[what])
    assert run.logical_date is None
    assert {task for task, state in states.items() if state == "skipped"} == SKIPPED.get(what, set())
    assert {state for task, state in states.items() if task not in SKIPPED.get(what, ())} == {"success"}
    fields = rendered(run)
    assert set(fields) == set(states)
    assert "{{" not in str(fields)
    assert "XComArg" not in str(fields)
    if what in ("data", "scoring"):
        assert {(found["start"], found["end"]) for found in fields.values()} == {tuple(WINDOW.values())}
    windows = {request["stage"]: request["window"] for request in requests_sent().values()}
    expected = {
        "data": {"ingest": WINDOW, "validate": WINDOW, "features": WINDOW},
        "scoring": {"score": WINDOW},
        "monitoring": {"feedback": WINDOW, "monitor": {"from": "2013-07-27", "to": "2013-08-02"}},
        "training": {"train": CONF["training"]},
        "release": {"rollout": None},
    }[what]
    assert expected.items() <= windows.items()


@pytest.mark.parametrize("what", ["data", "scoring", "monitoring"])
def test_a_run_with_neither_says_what_to_give(model, platform, run_dag, requests_sent, capfd, what):
    _, states = run_dag(model_dags(model, platform)[f"small_{what}"], logical_date=None)
    assert "failed" in states.values()
    assert "success" not in states.values()
    assert requests_sent() == {}
    assert "give `from` and `to`, or a logical date" in "".join(capfd.readouterr())
