"""MLflow runs: one for each training fingerprint, found again by a retry.

The embedded registry is a SQLite file below the base with artifacts beside it; any MLflow tracking URI takes its place
without a change here.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airflow_ml.registry.client import alone, clear_errors, client_of, is_database
from airflow_ml.spec import Platform

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FINGERPRINT = "airflow_ml.fingerprint"
"""Tag that makes a run, or a model version, findable by what it was made from."""

_LONGEST_PARAM = 500


@clear_errors
def start_run(
    platform: Platform,
    model_name: str,
    fingerprint: str,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """The run of this fingerprint: made, or found and opened again. Parameters and tags are written either way.

    Args:
        platform: Says where the registry is.
        model_name: Also the name of the MLflow experiment.
        fingerprint: Identity of what the run records.
        params: Shown as MLflow parameters, as text; a value that is there already stays.
        tags: Shown as MLflow tags.

    Returns:
        The MLflow run id.
    """
    found = find_run(platform, model_name, fingerprint)
    client = client_of(platform)
    if found is None:
        with alone(platform):
            # Looked for again under the lock: another process may have made it in between.
            found = find_run(platform, model_name, fingerprint)
            if found is None:
                run = client.create_run(
                    _experiment(platform, model_name),
                    run_name=f"{model_name}-{fingerprint[:12]}",
                    tags={FINGERPRINT: fingerprint, **(tags or {})},
                )
                found = str(run.info.run_id)
    else:
        client.update_run(found, status="RUNNING")
    _describe(client, found, params or {}, tags or {})
    return found


@clear_errors
def find_run(platform: Platform, model_name: str, fingerprint: str) -> str | None:
    """The run of this fingerprint, or None."""
    client = client_of(platform)
    experiment = client.get_experiment_by_name(model_name)
    if experiment is None:
        return None
    runs = client.search_runs(
        [experiment.experiment_id],
        f"tags.`{FINGERPRINT}` = '{fingerprint}'",
        max_results=1,
        order_by=["start_time ASC"],
    )
    return str(runs[0].info.run_id) if runs else None


@clear_errors
def log_metrics(platform: Platform, run_id: str, metrics: Mapping[str, float | None], step: int = 0) -> None:
    """Record numbers at a step; one that could not be computed (None, NaN, infinite) is left out."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    values = [
        Metric(name, float(value), now_ms, step)
        for name, value in metrics.items()
        if value is not None and math.isfinite(value)
    ]
    if values:
        client_of(platform).log_batch(run_id, metrics=values)


@clear_errors
def log_artifacts(platform: Platform, run_id: str, path: str | Path, folder: str | None = None) -> None:
    """Copy a file or a folder's content to the run's artifacts, below ``folder``; what is there is overwritten."""
    source = Path(path)
    client = client_of(platform)
    if source.is_dir():
        client.log_artifacts(run_id, str(source), folder)
    else:
        client.log_artifact(run_id, str(source), folder)


@clear_errors
def end_run(platform: Platform, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
    """Mark the run as ended; `start_run` opens it again."""
    client_of(platform).set_terminated(run_id, status=status)


@clear_errors
def experiment_of(platform: Platform, run_id: str) -> str:
    """The MLflow experiment of a run: links to a run name both."""
    return str(client_of(platform).get_run(run_id).info.experiment_id)


def _experiment(platform: Platform, model_name: str) -> str:
    client = client_of(platform)
    found = client.get_experiment_by_name(model_name)
    if found is not None:
        return str(found.experiment_id)
    location = f"{platform.base}/registry/artifacts/{model_name}" if is_database(platform) else None
    return str(client.create_experiment(model_name, artifact_location=location))


def _describe(client: "MlflowClient", run_id: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
    from mlflow.entities import Param, RunTag

    have = client.get_run(run_id).data.params
    client.log_batch(
        run_id,
        params=[Param(name, str(value)[:_LONGEST_PARAM]) for name, value in params.items() if name not in have],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
