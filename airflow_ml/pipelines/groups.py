"""The tasks of one pipeline: the same in the DAGs of `model_dags` and as a task group in a DAG of one's own."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import TaskGroup, TriggerRule

from airflow_ml.notifications import ModelAlertNotifier
from airflow_ml.operators import (
    ApproveReleaseOperator,
    BuildFeaturesOperator,
    BuildTrainingSetOperator,
    CheckGatesOperator,
    DecideRetrainingOperator,
    EvaluateModelOperator,
    ExportModelOperator,
    IngestOperator,
    IngestOutcomesOperator,
    JoinFeedbackOperator,
    MonitorModelOperator,
    RegisterModelOperator,
    ReleaseModelOperator,
    RolloutModelOperator,
    ScoreOperator,
    SendAlertOperator,
    TrainModelOperator,
    TriggerTrainingOperator,
    ValidateDataOperator,
)
from airflow_ml.pipelines.assets import model_asset
from airflow_ml.sensors import LabelsArrivedSensor, LandingFileSensor, PartitionCommittedSensor
from airflow_ml.spec import Canary, Model, Platform

TASK_DEFAULTS: dict[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=10),
    "execution_timeout": timedelta(hours=12),
}
"""Airflow 3.3 may fail a deferred task that did nothing wrong (apache/airflow #71580); a repeated stage is cheap.

A job that hangs is ended after half a day and gives its worker back. A group's ``default_args`` say otherwise, and so
does ``dag.get_task("train").execution_timeout`` for a DAG of `model_dags`.
"""

SENSOR: dict[str, Any] = {"poke_interval": 15, "timeout": timedelta(hours=12), "mode": "reschedule"}
"""Where `default_deferrable` is off, a sensor that waits gives its worker back between two looks."""

SCORED: dict[str, Any] = {**SENSOR, "timeout": timedelta(hours=1), "soft_fail": True}
"""Scoring had a day before monitoring begins. A night that validation refused is never scored: its run goes on without,
and the days after it, which wait for it, too."""


def training_dag_id(model: Model) -> str:
    """The DAG that trains a model."""
    return f"{model.name}_training"


def data_tasks(model: Model, platform: Platform | None = None) -> None:
    """Wait, ingest, validate, build features; with the outcomes that are known by then."""
    common: dict[str, Any] = {"model": model, "platform": platform}
    reader = {**common, "on_failure_callback": ModelAlertNotifier(model.name, platform)}
    landed = LandingFileSensor(task_id="wait_for_landing", **reader, **SENSOR)
    ingest = IngestOperator(task_id="ingest", **reader)
    outcomes = IngestOutcomesOperator(task_id="ingest_outcomes", lag=model.label.lag, **reader)
    validate = ValidateDataOperator(task_id="validate", **reader)
    features = BuildFeaturesOperator(
        task_id="build_features",
        outlets=[model_asset(model.name, "features")],
        # The first partitions of a model have no earlier outcomes: their task is skipped.
        trigger_rule=TriggerRule.NONE_FAILED,
        **common,
    )
    landed >> ingest >> validate >> features
    landed >> outcomes >> features


def training_tasks(model: Model, platform: Platform | None = None, training_params: Any = None) -> None:
    """From a pinned training set to a release, or to a registered refusal."""
    common: dict[str, Any] = {"model": model, "platform": platform}
    training_set = BuildTrainingSetOperator(task_id="build_training_set", **common)
    done: dict[str, Any] = {"training_set": training_set.output}
    train = TrainModelOperator(task_id="train", inputs=done, training_params=training_params, **common)
    done = {**done, "train": train.output}
    # Neither needs the other: they run side by side.
    evaluate = EvaluateModelOperator(task_id="evaluate", inputs=done, **common)
    export = ExportModelOperator(task_id="export", inputs=done, **common)
    done = {**done, "evaluate": evaluate.output, "export": export.output}
    gates = CheckGatesOperator(task_id="check_gates", inputs=done, **common)
    done = {**done, "gates": gates.output}
    register = RegisterModelOperator(task_id="register", inputs=done, **common)
    if model.approval is None and model.serving.canary is None:
        ReleaseModelOperator(
            task_id="release",
            inputs={"register": register.output},
            outlets=[model_asset(model.name, "release")],
            **common,
        )
        return
    registered = {"inputs": {"register": register.output}}
    _rollout_tasks(model, platform, registered, registered)


def _rollout_tasks(
    model: Model, platform: Platform | None, wanted: Mapping[str, Any], asked: Mapping[str, Any]
) -> None:
    """To its traffic; with a person's approval before it, or in the middle, where that is declared.

    In the middle the rollout goes on being judged while a person is asked: a version that gets worse goes back without
    an answer.

    Args:
        model: The declaration.
        platform: Where things are.
        wanted: Arguments of the rollout.
        asked: Arguments of the approval.
    """
    common: dict[str, Any] = {"model": model, "platform": platform}
    ends: dict[str, Any] = {
        **common,
        **wanted,
        **_patience(model),
        "outlets": [model_asset(model.name, "release")],
        # A release that went back is no failure, and a person is told of it all the same.
        "on_success_callback": ModelAlertNotifier(model.name, platform),
    }
    if model.approval is None:
        RolloutModelOperator(task_id="rollout", **ends)
        return
    if model.approval.above == 0:
        ApproveReleaseOperator(task_id="approve", **common, **asked) >> RolloutModelOperator(task_id="rollout", **ends)
        return
    canary = RolloutModelOperator(task_id="canary", until_approval=True, **ends)
    seen = {"canary": canary.output}
    ApproveReleaseOperator(task_id="approve", **{**common, **asked, "inputs": {**asked.get("inputs", {}), **seen}})
    RolloutModelOperator(task_id="rollout", **{**ends, "inputs": {**wanted.get("inputs", {}), **seen}})


def _patience(model: Model) -> dict[str, timedelta]:
    """A timeout for a rollout that may rightly take longer than other tasks."""
    plan = model.serving.canary or Canary()
    waits = plan.judging.max_wait_s * (len(plan.steps) + plan.shadow) + plan.watch_s
    asked = model.approval.deadline_s if model.approval is not None and model.approval.above else 0.0
    needed = timedelta(seconds=waits + asked) + timedelta(hours=1)
    return {} if needed <= TASK_DEFAULTS["execution_timeout"] else {"execution_timeout": needed}


def scoring_tasks(model: Model, platform: Platform | None = None) -> None:
    """Wait for the features of the night, and score them."""
    common: dict[str, Any] = {"model": model, "platform": platform}
    ready = PartitionCommittedSensor(task_id="wait_for_features", table="features", **common, **SENSOR)
    score = ScoreOperator(
        task_id="score",
        stage_params={"version": "{{ params.get('version') or '' }}"},
        outlets=[model_asset(model.name, "predictions")],
        **common,
    )
    ready >> score


def monitoring_tasks(model: Model, platform: Platform | None = None) -> None:
    """Wait for labels, join them, look for drift, decide, and start the training that the decision asks for."""
    common: dict[str, Any] = {"model": model, "platform": platform}
    reader = {**common, "on_failure_callback": ModelAlertNotifier(model.name, platform)}
    predicted = PartitionCommittedSensor(task_id="wait_for_predictions", table="predictions", **common, **SCORED)
    labelled = LabelsArrivedSensor(task_id="wait_for_labels", **reader, **SENSOR)
    outcomes = IngestOutcomesOperator(task_id="ingest_outcomes", **reader)
    feedback = JoinFeedbackOperator(task_id="join_feedback", **common)
    # Without predictions there is nothing to join; whether that is broken input or a fault is seen by monitoring.
    monitor = MonitorModelOperator(task_id="monitor", trigger_rule=TriggerRule.NONE_FAILED, **common)
    decide = DecideRetrainingOperator(task_id="decide_retraining", inputs={"monitor": monitor.output}, **common)
    trigger: dict[str, Any] = {"trigger_dag_id": training_dag_id(model), "decision": decide.output}
    labelled >> outcomes >> feedback
    predicted >> feedback >> monitor
    outcomes >> monitor
    triggered = TriggerTrainingOperator(task_id="trigger_training", **trigger)
    resent = TriggerTrainingOperator(task_id="resend_training", resend=True, **trigger)
    alert = SendAlertOperator(
        task_id="alert",
        decision=decide.output,
        monitoring=monitor.output,
        # Templates, because an XComArg of a key that a skipped task did not push fails.
        started=f"{{{{ ti.xcom_pull(task_ids='{triggered.task_id}', key='started') or '' }}}}",
        resent=f"{{{{ ti.xcom_pull(task_ids='{resent.task_id}', key='started') or '' }}}}",
        trigger_rule=TriggerRule.NONE_FAILED,
        **common,
    )
    [triggered, resent] >> alert


def release_tasks(model: Model, platform: Platform | None = None) -> None:
    """What the form asks for."""
    version, mode = "{{ params.get('version') or '' }}", "{{ params['mode'] }}"
    wish = {
        "version": version,
        "mode": mode,
        "steps": "{{ params.get('steps') or '' }}",
        "reason": "{{ params.get('reason') or '' }}",
        "by": "{{ params.get('by') or dag_run.triggering_user_name or '' }}",
    }
    _rollout_tasks(model, platform, {"stage_params": wish}, {"version": version, "mode": mode})


def _group(model: Model, what: str, group_id: str | None, default_args: Mapping[str, Any] | None) -> TaskGroup:
    return TaskGroup(group_id or f"{model.name}_{what}", default_args={**TASK_DEFAULTS, **(default_args or {})})  # type: ignore[arg-type]


def data_pipeline(
    model: Model, platform: Platform | None = None, group_id: str | None = None, **default_args: Any
) -> TaskGroup:
    """The data pipeline as a task group of the DAG that is being declared."""
    with _group(model, "data", group_id, default_args) as group:
        data_tasks(model, platform)
    return group


def training_pipeline(
    model: Model, platform: Platform | None = None, group_id: str | None = None, **default_args: Any
) -> TaskGroup:
    """The training pipeline as a task group.

    The DAG holds one training of the model at a time only if its ``max_active_runs`` is 1.
    """
    with _group(model, "training", group_id, default_args) as group:
        training_tasks(model, platform)
    return group


def scoring_pipeline(
    model: Model, platform: Platform | None = None, group_id: str | None = None, **default_args: Any
) -> TaskGroup:
    """The scoring pipeline as a task group."""
    with _group(model, "scoring", group_id, default_args) as group:
        scoring_tasks(model, platform)
    return group


def monitoring_pipeline(
    model: Model, platform: Platform | None = None, group_id: str | None = None, **default_args: Any
) -> TaskGroup:
    """The monitoring pipeline as a task group; it triggers the DAG ``<model>_training``."""
    with _group(model, "monitoring", group_id, default_args) as group:
        monitoring_tasks(model, platform)
    return group
