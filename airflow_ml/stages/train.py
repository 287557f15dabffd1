"""Train: Horovod ranks on the pinned training set, with a checkpoint each epoch and live metrics in MLflow."""

import contextlib
import json
import os
from typing import Any

from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.registry import tracking
from airflow_ml.spec import Horovod, Model, Platform
from airflow_ml.stages._files import file_of
from airflow_ml.stages.base import TRAINING, Outcome, Stage
from airflow_ml.stages.context import StageContext, log
from airflow_ml.stages.tune import best_params
from airflow_ml.storage import verify
from airflow_ml.training.events import Event
from airflow_ml.training.job import TrainingJob
from airflow_ml.training.launch import launch, threads_of
from airflow_ml.training.params import parse
from airflow_ml.training.pods import launch_on_pods
from airflow_ml.training.progress import Progress
from airflow_ml.training.usage import USAGE, Ledger, Usage
from airflow_ml.training.world import World

BEST = "best"
"""In the place of parameters: those of the best trial."""
_NO_METRICS = ("event", "rank", "epoch", "best")


class Train(Stage):
    """File ``model``: a folder with the network, its preprocessing and its history.

    What attempts of one fingerprint share outlives them: the MLflow run, and the checkpoints, so that a killed attempt
    costs the epoch that it was in.
    """

    name = "train"
    components = ("torch", "horovod", "numpy", "pyarrow", "mlflow")
    params = TRAINING

    def entry_points(self, model: Model) -> tuple[str, ...]:
        """The user's ``fit``, where one is declared."""
        return (model.training.fit,) if model.training.fit else ()

    def identify(self, ctx: StageContext) -> dict[str, Any]:
        """Training set, parameters, seed, and the number of ranks, which decides the order of sums."""
        training = ctx.model.training
        params = _params(ctx)
        parse(params, own_fit=training.fit is not None)
        return {
            "training_set": ctx.upstream("training_set").fingerprint,
            "fit": training.fit,
            "params": params,
            "seed": training.seed,
            "workers": training.workers,
            "gpus_per_worker": training.gpus_per_worker,
        }

    def run(self, ctx: StageContext) -> Outcome:
        """Train, or go on where a killed attempt was."""
        training, params = ctx.model.training, _params(ctx)
        world = World.from_environment(os.environ)
        job = _job(ctx, params, world)
        with ctx.timed("open MLflow run"):
            shown = {**params, "seed": training.seed, "workers": training.workers, "window": str(ctx.window)}
            run_id = tracking.start_run(ctx.platform, ctx.model.name, ctx.fingerprint, shown)
        # The operator links to the run as soon as it reads this.
        log.info("MLflow run %s", run_id)
        progress = Progress(parse(params, own_fit=training.fit is not None).epochs)
        ledger = Ledger(ctx.state / "usage", ctx.attempt)

        def on_event(event: Event) -> None:
            progress(event)
            if event["event"] == USAGE:
                # Told at the end, too, when the disk may be what ends it.
                with contextlib.suppress(AirflowMLError):
                    ledger.note(event)
            if event["event"] == "epoch":
                numbers = {name: value for name, value in event.items() if name not in _NO_METRICS}
                if ctx.request.coordinates is not None and ctx.request.coordinates.trial:
                    log.info("report %s", json.dumps({"epoch": event["epoch"], **numbers}))
                tracking.log_metrics(ctx.platform, run_id, numbers, step=int(event["epoch"]))

        try:
            with ctx.timed("ranks"):
                if world is None:
                    finished = launch(job, ctx.files / "ranks", on_event)
                else:
                    finished = launch_on_pods(job, world, on_event)
        except BaseException as error:
            # A registry that is gone, too, must not hide why the training ended.
            with contextlib.suppress(AirflowMLError):
                tracking.end_run(ctx.platform, run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        finally:
            progress.close()
        usage = _bill(ledger.total(), ctx.platform)
        tracking.log_metrics(ctx.platform, run_id, {name: usage[name] for name in ("gpu_hours", "cpu_hours", "cost")})
        tracking.end_run(ctx.platform, run_id)
        with ctx.timed("report"):
            history = _report(ctx, job, finished)
        return Outcome(
            outputs={"model": ctx.pin(ctx.files / "model")},
            metrics={
                "best_validation_loss": finished["validation_loss"],
                "validation_roc_auc": finished["validation_roc_auc"],
                "epochs": float(finished["epochs"]),
                "train_rows_per_s": _speed(history),
            },
            reports={"training": ctx.pin(ctx.files / "training.html", "text/html")},
            summary={
                "mlflow_run_id": run_id,
                "mlflow_experiment_id": tracking.experiment_of(ctx.platform, run_id),
                "world_size": training.ranks,
                "best_epoch": finished["best_epoch"],
                "resumed_from_epoch": finished["resumed_from_epoch"],
                "usage": usage,
            },
            rows=int(finished["train_rows"]),
        )


def _bill(usage: Usage, platform: Platform) -> dict[str, Any]:
    """Hours of all attempts, and what they cost."""
    prices = platform.prices
    gpu_hours, cpu_hours = usage.gpu_s / 3600, usage.cpu_s / 3600
    return {
        "gpu_hours": round(gpu_hours, 6),
        "cpu_hours": round(cpu_hours, 6),
        "cost": round(gpu_hours * prices.gpu_hour + cpu_hours * prices.cpu_hour, 6),
        "currency": prices.currency,
    }


def _params(ctx: StageContext) -> dict[str, Any]:
    """Parameters of the declaration, overridden by the request's ``training``, or by the best of the last study."""
    given, tune = ctx.params.get("training") or {}, ctx.model.tune
    if given == BEST or (not given and tune is not None and tune.use_best):
        return {**ctx.model.training.params, **best_params(ctx, required=given == BEST)}
    if not isinstance(given, dict):
        raise SpecError(
            f"{given!r} is not an object", where="params.training", remedy='pass {"training": {"epochs": 3}}, or "best"'
        )
    return {**ctx.model.training.params, **given}


def _job(ctx: StageContext, params: dict[str, Any], world: World | None) -> TrainingJob:
    training_set = ctx.upstream("training_set")
    files = {name: file_of(training_set, name) for name in ("train", "validation", "preprocessing")}
    training = ctx.model.training
    return TrainingJob(
        fingerprint=ctx.fingerprint,
        **{name: str(verify(file.uri, file.sha256)) for name, file in files.items()},
        fit=training.fit,
        params=params,
        seed=training.seed,
        workers=training.ranks,
        gpus_per_worker=training.gpus_per_worker,
        threads=_threads(training, world),
        state=checkpoints_of(ctx),
        out=str(ctx.files / "model"),
        fusion_threshold_mb=training.fusion_threshold_mb,
        cycle_time_ms=training.cycle_time_ms,
        step_timeout_s=training.step_timeout_s,
    )


def checkpoints_of(ctx: StageContext) -> str:
    """Where the checkpoints of this result lie: in the platform's place for them, or beside it."""
    place = ctx.platform.checkpoints
    # As the result's folder is called: a training that is another one by its inputs or its code has another place.
    return str(ctx.state / "checkpoints") if place is None else f"{place}/{ctx.model.name}/{ctx.folder.name}"


def _threads(training: Horovod, world: World | None) -> int:
    """Of a rank; a pod that only coordinates does not know what the others have."""
    if world is None:
        return threads_of(training.ranks)
    return 0 if world.coordinates_only else world.threads


def _report(ctx: StageContext, job: TrainingJob, finished: Event) -> list[dict[str, Any]]:
    """Write the learning curve; the history, one dict an epoch."""
    from airflow_ml.training import plots
    from airflow_ml.training.model_files import HISTORY
    from airflow_ml.training.report import training_page

    history: list[dict[str, Any]] = json.loads((ctx.files / "model" / HISTORY).read_text(encoding="utf-8"))["history"]
    about = [
        f"Window {ctx.window}, {finished['train_rows']:,} rows, {job.workers} ranks"
        + (f" of {job.threads} threads" if job.threads else ""),
        f"Best epoch {finished['best_epoch']} of {finished['epochs']}",
    ]
    curve = [("Losses and validation ROC AUC by epoch", plots.learning(history, int(finished["best_epoch"])))]
    page = training_page(f"Training of {ctx.model.name}", about, history, curve if history else [])
    (ctx.files / "training.html").write_text(page, encoding="utf-8")
    log.info("best epoch %d: validation ROC AUC %s", finished["best_epoch"], finished["validation_roc_auc"])
    return history


def _speed(history: list[dict[str, Any]]) -> float | None:
    """Median rows per second of an epoch."""
    found = sorted(entry["rows_per_s"] for entry in history if entry.get("rows_per_s"))
    return float(found[len(found) // 2]) if found else None


STAGE = Train()
