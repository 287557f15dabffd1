"""`model_dags`: the five DAGs of a model.

Timetables are explicit: what a plain ``@daily`` means differs between deployments of Airflow 3.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.sdk import DAG, CronDataIntervalTimetable, CronTriggerTimetable, Param

from airflow_ml.pipelines import groups
from airflow_ml.pipelines.docs import doc
from airflow_ml.pipelines.forms import ReleaseForm, ScoringForm, WindowForm, form, overridable, training_form
from airflow_ml.spec import Model, Platform

MIDNIGHT = "0 0 * * *"


def model_dags(model: Model, platform: Platform | None = None) -> dict[str, DAG]:
    """The DAGs of a model, by their ids: ``globals().update(model_dags(flights))`` in a DAG file.

    Args:
        model: The declaration.
        platform: Where things are; None, the usual case, asks Airflow's configuration when a task runs.

    Returns:
        ``<model>_data``, ``_training``, ``_scoring``, ``_monitoring`` and ``_release``.
    """
    # The partition of a run is its logical date. Data and scoring run at its 00:00 with what has landed by then;
    # monitoring runs when the day is over, in order, because a decision counts the earlier ones.
    at_midnight, after_the_day = _schedules(model)
    with _dag(model, "data", form(WindowForm), schedule=at_midnight, max_active_runs=2) as data:
        groups.data_tasks(model, platform)
    with _dag(model, "training", training_form(model), schedule=None, max_active_runs=1) as training:
        groups.training_tasks(model, platform, _overrides(model))
    with _dag(model, "scoring", form(ScoringForm), schedule=at_midnight, max_active_runs=4) as scoring:
        groups.scoring_tasks(model, platform)
    with _dag(model, "monitoring", form(WindowForm), schedule=after_the_day, max_active_runs=1) as monitoring:
        groups.monitoring_tasks(model, platform)
    # A canary may go on for hours, and an approval wait for a day: a rollback must not queue behind them.
    with _dag(model, "release", form(ReleaseForm), schedule=None, max_active_runs=8) as release:
        groups.release_tasks(model, platform)
    return {dag.dag_id: dag for dag in (data, training, scoring, monitoring, release)}


@contextmanager
def _dag(model: Model, what: str, params: dict[str, Param], **kwargs: Any) -> Iterator[DAG]:
    """A DAG around its tasks, with a form.

    The form comes last. Airflow copies the params that a DAG has into each of its tasks, and validates every copy's
    schema several times while it serialises: two thirds of what our DAGs cost the DAG processor. No task needs its
    copy, because a run merges the DAG's params into those of the task.
    """
    dag = DAG(
        dag_id=f"{model.name}_{what}",
        # Catching up makes a run for every day since the start as soon as somebody unpauses: history goes in bulk, by
        # hand.
        catchup=False,
        default_args={**groups.TASK_DEFAULTS, "owner": model.owner},
        tags=["airflow-ml", f"model:{model.name}", what],
        doc_md=doc(model, what),
        **kwargs,
    )
    with dag:
        yield dag
    dag.params.update(params)


def _schedules(model: Model) -> tuple[Any, Any]:
    """At 00:00 of a day, and when a day is over."""
    if model.end is None:
        return CronTriggerTimetable(MIDNIGHT, timezone="UTC"), CronDataIntervalTimetable(MIDNIGHT, timezone="UTC")
    from airflow_ml.pipelines.timetables import DayOverUntil, MidnightUntil

    return MidnightUntil(model.end), DayOverUntil(model.end)


def _overrides(model: Model) -> str | None:
    """A template: JSON of the form's training parameters, null where nobody set one."""
    entries = ", ".join(f"{json.dumps(name)}: params.get({json.dumps(name)})" for name in overridable(model))
    return "{{ {" + entries + "} | tojson }}" if entries else None
