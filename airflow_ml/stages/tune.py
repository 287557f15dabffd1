"""Tune: what a search has found, as a result that trainings can use, and as a run in MLflow.

The search itself (`airflow_ml.compute.search`) runs where jobs are submitted from; this stage records its outcome.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from airflow_ml.lifecycle.errors import AirflowMLError, MissingResult, SpecError
from airflow_ml.lifecycle.requests import JobResult
from airflow_ml.stages.base import Outcome, Stage
from airflow_ml.stages.context import StageContext
from airflow_ml.storage import write_atomically


class RecordStudy(Stage):
    """File ``study``; summary ``best_params``, ``best_value``, ``trials``."""

    name = "tune"
    components = ("optuna", "mlflow")
    params = ("study",)

    def identify(self, ctx: StageContext) -> dict[str, Any]:
        """The training set, what was searched for, and each trial."""
        found = ctx.params.get("study")
        if found is None or ctx.model.tune is None:
            raise SpecError(
                "there is no search to record",
                where=f"model {ctx.model.name}",
                remedy=f"declare `tune`, and run it: airflow-ml run tune {ctx.model.name} --from … --to …",
            )
        return {
            "training_set": ctx.upstream("training_set").fingerprint,
            "tune": ctx.model.tune.model_dump(mode="json", include={"search", "metric"}),
            "study": found,
        }

    def run(self, ctx: StageContext) -> Outcome:
        """Write the study down, and show it in MLflow."""
        with ctx.timed("import mlflow"):
            from airflow_ml.registry import tracking
        study = ctx.params["study"]
        trials = study["trials"]
        best = next(trial for trial in trials if trial["number"] == study["best"])
        write_atomically(ctx.files / "study.json", json.dumps(study, indent=1))
        with ctx.timed("show in MLflow"):
            shown = {**best["params"], "study": study["study"], "trials": len(trials), "best_trial": best["number"]}
            tags = {"airflow_ml.study": study["study"], "airflow_ml.best_run": best["mlflow_run_id"]}
            run_id = tracking.start_run(ctx.platform, ctx.model.name, ctx.fingerprint, shown, tags)
            metric = ctx.model.tune.metric if ctx.model.tune else ""
            for trial in trials:
                if trial["state"] == "pruned" and trial["mlflow_run_id"]:
                    # Its job was ended before it could say so; whoever has removed the run misses nothing.
                    with contextlib.suppress(AirflowMLError):
                        tracking.end_run(ctx.platform, trial["mlflow_run_id"], "KILLED")
                tracking.log_metrics(ctx.platform, run_id, {f"trial_{metric}": trial["value"]}, step=trial["number"])
            tracking.log_metrics(ctx.platform, run_id, {f"best_{metric}": best["value"]})
            tracking.log_artifacts(ctx.platform, run_id, ctx.files / "study.json")
            tracking.end_run(ctx.platform, run_id)
        return Outcome(
            outputs={"study": ctx.pin(ctx.files / "study.json", "application/json")},
            metrics={f"best_{metric}": best["value"]},
            summary={
                "study": study["study"],
                "best_params": best["params"],
                "best_value": best["value"],
                "best_trial": best["number"],
                "trials": {state: sum(t["state"] == state for t in trials) for state in {t["state"] for t in trials}},
                "gpu_hours": round(sum(trial["gpu_hours"] for trial in trials), 6),
                "mlflow_run_id": run_id,
                "mlflow_experiment_id": tracking.experiment_of(ctx.platform, run_id),
            },
            rows=len(trials),
        )


def best_params(ctx: StageContext, required: bool) -> dict[str, Any]:
    """Parameters of the best trial: of the study that the request names, or of the last one.

    Args:
        ctx: Of a training.
        required: Whether there has to be one.

    Raises:
        MissingResult: There has to be a study, and there is none.
    """
    named = ctx.request.inputs.get("tune")
    folder = ctx.base / "runs" / ctx.model.name / "tune"
    last = sorted(folder.glob("*/result.json"), key=lambda path: path.stat().st_mtime_ns)
    path = Path(named) if named else last[-1] if last else None
    if path is None or not path.exists():
        if not required and named is None:
            return {}
        raise MissingResult(
            "no study has ended yet",
            where=str(path or folder),
            remedy=f"run one first: airflow-ml run tune {ctx.model.name} --from … --to …",
        )
    found: dict[str, Any] = JobResult.model_validate_json(path.read_text(encoding="utf-8")).summary["best_params"]
    return found


STAGE = RecordStudy()
