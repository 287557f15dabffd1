"""The search for training parameters: Optuna asks, jobs of the training's compute answer, a database remembers.

A trial is a training like any other: a request of the stage ``train``, whose result is found again. So a search that
was killed goes on where it was: its unfinished trials are submitted again, and resume from their checkpoints.
"""

import json
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.compute.base import Compute, Handle, Phase, follow
from airflow_ml.lifecycle.errors import AirflowMLError, JobFailed, SpecError, TrainingFailed
from airflow_ml.lifecycle.fingerprints import fingerprint
from airflow_ml.lifecycle.requests import TRIAL, Coordinates, JobRequest, JobResult
from airflow_ml.spec.tuning import Between, OneOf, Tune

if TYPE_CHECKING:
    import optuna

STUDIES = "AIRFLOW_ML_STUDIES"
"""Variable of the database's address: it may hold a password, so it is no setting of the platform."""
_REPORT = re.compile(r"report (\{.*\})$")
_RUN = re.compile(r"MLflow run (\S+)$")
_GPU_HOURS = "gpu_hours"
"""Attribute of a trial."""
_LOOK_S = 0.2
_IN_VAIN = 3
"""Trials that fail before any succeeds: then the declaration is wrong, and not the parameters."""


@dataclass
class _Running:
    trial: "optuna.Trial"
    handle: Handle
    began: float
    taken: float
    pruned: bool = False


@dataclass
class Search:
    """One run of a search.

    Args:
        request: Of the stage ``tune``; its input ``training_set`` names what is trained on.
        compute: Runs the trials.
        secrets: Variables of their jobs; `STUDIES` among them names the database, and is for the search alone.
        tell: Called with each line for people.
        clock: Seconds that only go forward.
        running: Trials whose jobs run.
        stopped: Whether somebody has asked for the end.
    """

    request: JobRequest
    compute: Compute
    secrets: Mapping[str, str]
    tell: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    running: list[_Running] = field(default_factory=list)
    stopped: bool = False

    def run(self) -> dict[str, Any]:
        """Search until the budget is used up.

        Returns:
            What the stage ``tune`` records: ``study``, ``best`` (number of the trial) and ``trials``.

        Raises:
            SpecError: There is nothing declared to be searched for.
            TrainingFailed: No trial came to an end.
        """
        study, tune = self._study(), self._tune
        began = self.clock()
        # What a search that was killed has begun.
        waiting = deque(_again(study))
        errors: list[AirflowMLError] = []
        try:
            while True:
                spent = self._spent(study, began)
                if spent is None:
                    while len(self.running) < tune.parallel and (waiting or _begun(study) < tune.trials):
                        self._submit(study, waiting.popleft() if waiting else study.ask())
                if not self.running or spent is not None:
                    break
                for each in list(self.running):
                    self._look(study, each, errors)
                if self.running:
                    # Once for all of them: a compute may make it a second.
                    self.compute.pause(self.running[0].handle, _LOOK_S)
                if len(errors) >= _IN_VAIN and not any(trial.value is not None for trial in study.trials):
                    raise errors[-1]
        finally:
            # Those that are not done are asked again by the next run.
            self.cancel(wait=True)
        if spent is not None:
            self.tell(f"the search ends: {spent}")
        return self._found(study, errors)

    def cancel(self, wait: bool) -> None:
        """End all trials that run, and submit no more.

        Args:
            wait: False only asks, for a caller in a signal handler.
        """
        self.stopped = True
        for each in self.running:
            self.compute.cancel(each.handle, wait=wait)
        if wait:
            for each in self.running:
                each.trial.set_user_attr(_GPU_HOURS, self._gpu_hours(each))
            self.running.clear()

    @property
    def _tune(self) -> Tune:
        if self.request.model.tune is None:
            raise SpecError(
                "nothing is declared to be searched for",
                where=f"model {self.request.model.name}",
                remedy='declare it: tune=Tune(trials=20, search={"learning_rate": between(1e-4, 1e-2, log=True)})',
            )
        return self.request.model.tune

    def _study(self) -> "optuna.Study":
        import optuna

        tune, training = self._tune, self.request.model.training
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        data = JobResult.model_validate_json(Path(self.request.inputs["training_set"]).read_text(encoding="utf-8"))
        searched = tune.model_dump(mode="json", include={"search", "metric"})
        trained = training.model_dump(mode="json", include={"fit", "params", "seed", "workers", "gpus_per_worker"})
        name = f"{self.request.model.name}-{fingerprint(data.fingerprint, searched, trained)[:12]}"
        address = self.secrets.get(STUDIES)
        if address is None:
            folder = Path(self.request.platform.base) / "tuning"
            folder.mkdir(parents=True, exist_ok=True)
            address = f"sqlite:///{folder}/{self.request.model.name}.db"
        return optuna.create_study(
            storage=address,
            study_name=name,
            load_if_exists=True,
            direction="minimize" if tune.metric == "validation_loss" else "maximize",
            sampler=optuna.samplers.TPESampler(seed=tune.seed, constant_liar=tune.parallel > 1),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4) if tune.prune else optuna.pruners.NopPruner(),
        )

    def _submit(self, study: "optuna.Study", trial: "optuna.Trial") -> None:
        chosen = {name: _suggested(trial, name, where) for name, where in self._tune.search.items()}
        # Without a task, the study is what tells its trials from those of another search in the same cluster.
        at = self.request.coordinates or Coordinates(dag_id="", task_id="tune", run_id=study.study_name)
        request = self.request.model_copy(
            update={
                "stage": "train",
                "params": {"training": chosen},
                # A job of its own in a cluster, and the same one again for a search that was killed.
                "coordinates": at.model_copy(update={"task_id": f"{at.task_id}{TRIAL}", "map_index": trial.number}),
            }
        )
        self.tell(f"trial {trial.number}: {json.dumps(chosen)}")
        secrets = {name: value for name, value in self.secrets.items() if name != STUDIES}
        handle = self.compute.submit(request, secrets, None)
        self.running.append(_Running(trial, handle, self.clock(), _noted(trial)))

    def _look(self, study: "optuna.Study", each: _Running, errors: list[AirflowMLError]) -> None:
        from optuna.trial import TrialState

        state = self.compute.poll(each.handle)
        if self.stopped:
            # Not the end of the trial: the next run submits it again.
            raise JobFailed("the search was ended", remedy="a retry goes on with its study")
        for line in self.compute.logs(each.handle):
            run = _RUN.search(line)
            if run:
                # A trial that is ended has no result to say so.
                each.trial.set_user_attr("mlflow_run_id", run[1])
            told = _REPORT.search(line)
            if told and not each.pruned:
                each.pruned = self._worse(each.trial, json.loads(told[1]))
        if each.pruned:
            self.tell(f"trial {each.trial.number} is worse than most: ended")
            self.compute.cancel(each.handle)
            self._end(study, each, state=TrialState.PRUNED)
        elif state.phase is Phase.ENDED:
            following = follow(state)
            if following.result is not None:
                self._done(study, each, following.result)
            elif following.error is not None:
                errors.append(following.error)
                self.tell(f"trial {each.trial.number} failed: {following.error}")
                self._end(study, each, state=TrialState.FAIL)

    def _worse(self, trial: "optuna.Trial", report: dict[str, Any]) -> bool:
        value = report.get(self._tune.metric)
        if value is None:
            return False
        trial.report(float(value), int(report["epoch"]))
        return trial.should_prune()

    def _done(self, study: "optuna.Study", each: _Running, result: JobResult) -> None:
        from optuna.trial import TrialState

        name = {"validation_loss": "best_validation_loss"}.get(self._tune.metric, self._tune.metric)
        value = result.metrics.get(name)
        usage = result.summary.get("usage", {})
        each.trial.set_user_attr("mlflow_run_id", str(result.summary.get("mlflow_run_id", "")))
        each.trial.set_user_attr(_GPU_HOURS, float(usage.get("gpu_hours", 0.0)))
        self.tell(f"trial {each.trial.number}: {self._tune.metric} {value}")
        if value is None:
            self._end(study, each, state=TrialState.FAIL)
        else:
            self._end(study, each, value)

    def _end(self, study: "optuna.Study", each: _Running, value: float | None = None, state: Any = None) -> None:
        if value is None:
            # It has no result to say so.
            each.trial.set_user_attr(_GPU_HOURS, self._gpu_hours(each))
        study.tell(each.trial, value, state=state)
        self.running.remove(each)

    def _gpu_hours(self, each: _Running) -> float:
        """What a trial without a result has taken, in earlier runs of the search, too."""
        training = self.request.model.training
        gpus = training.ranks if training.gpus_per_worker else 0
        return each.taken + (self.clock() - each.began) / 3600 * gpus

    def _spent(self, study: "optuna.Study", began: float) -> str | None:
        """The budget that is used up; None while there is some left."""
        tune = self._tune
        if tune.hours is not None and self.clock() - began > tune.hours * 3600:
            return f"its {tune.hours:g} hours are over"
        # Those that run have taken some already: one trial alone may take them all.
        taken = {each.trial.number: self._gpu_hours(each) for each in self.running}
        taken = {trial.number: _noted(trial) for trial in study.trials} | taken
        used = sum(taken.values())
        if tune.gpu_hours is not None and used >= tune.gpu_hours:
            return f"its {tune.gpu_hours:g} GPU-hours are used up"
        return None

    def _found(self, study: "optuna.Study", errors: list[AirflowMLError]) -> dict[str, Any]:
        from optuna.trial import TrialState

        trials = [
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                "value": trial.value if trial.state is TrialState.COMPLETE else None,
                "params": _chosen(trial.params, self._tune.search),
                "epochs": len(trial.intermediate_values),
                "gpu_hours": round(_noted(trial), 6),
                "mlflow_run_id": trial.user_attrs.get("mlflow_run_id", ""),
            }
            for trial in study.trials
            if trial.state.is_finished()
        ]
        if not any(trial["value"] is not None for trial in trials):
            if errors:
                raise errors[-1]
            raise TrainingFailed(
                "no trial came to an end", where=study.study_name, remedy="give the search more hours, or GPU-hours"
            )
        return {"study": study.study_name, "best": study.best_trial.number, "trials": trials}


def _noted(trial: "optuna.Trial | optuna.trial.FrozenTrial") -> float:
    return float(trial.user_attrs.get(_GPU_HOURS, 0.0))


def _begun(study: "optuna.Study") -> int:
    import optuna

    return sum(trial.state is not optuna.trial.TrialState.WAITING for trial in study.trials)


def _again(study: "optuna.Study") -> list["optuna.Trial"]:
    import optuna

    left = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    return [optuna.Trial(study, trial._trial_id) for trial in left]


def _suggested(trial: "optuna.Trial", name: str, where: Between | OneOf) -> Any:
    if isinstance(where, OneOf):
        # By place: a database keeps numbers and texts, and a value may be a list.
        return where.values[trial.suggest_categorical(name, range(len(where.values)))]
    if isinstance(where.low, int) and isinstance(where.high, int):
        return trial.suggest_int(name, where.low, where.high, log=where.log)
    return trial.suggest_float(name, where.low, where.high, log=where.log)


def _chosen(params: Mapping[str, Any], search: Mapping[str, Between | OneOf]) -> dict[str, Any]:
    """Parameters as they are given to a training."""
    found = {}
    for name, value in params.items():
        where = search[name]
        found[name] = where.values[value] if isinstance(where, OneOf) else value
    return found
