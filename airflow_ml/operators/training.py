"""Training operators: one window, from the training set to the registered version."""

import json
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_ml.compute.search import Search
from airflow_ml.hooks.platform import PlatformHook
from airflow_ml.hooks.readiness import newest
from airflow_ml.hooks.windows import FROM_PARAM, TO_PARAM, rendered_window
from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.lifecycle.windows import Window
from airflow_ml.operators.errors import as_airflow
from airflow_ml.operators.stage import StageOperator, go_with_supervisor
from airflow_ml.spec import Platform

if TYPE_CHECKING:
    from airflow.sdk import Context


class TrainingOperator(StageOperator):
    """A stage of a training run. All stages of a run have one window: given to the first, handed on by its result."""

    window_start: ClassVar[str] = FROM_PARAM
    window_end: ClassVar[str] = TO_PARAM

    def window(self, context: "Context", platform: Platform) -> Window | None:
        """The window of the inputs, which the first stage has chosen; without inputs the given one."""
        for given in self.inputs.values():
            if isinstance(given, Mapping) and given.get("window"):
                return Window.model_validate(given["window"])
        return self.chosen(context, platform)

    def chosen(self, context: "Context", platform: Platform) -> Window:
        """``from`` and ``to`` as given; without ``from`` the declared length, without ``to`` the newest labelled day.

        Raises:
            SpecError: Nothing is given and nothing has labels yet.
        """
        given = rendered_window(self.model, self.start, self.end)
        if given is not None and self.start and self.end:
            return given
        end = given.end if given is not None and self.end else self._newest_labelled(context, platform)
        start = (
            given.start if given is not None and self.start else end - timedelta(days=self.model.training.window - 1)
        )
        return Window.of(max(start, self.model.start), end)

    def _newest_labelled(self, context: "Context", platform: Platform) -> date:
        found = newest(platform, self.model, "outcomes")
        if found is None:
            raise SpecError(
                "no partition has labels yet",
                where=f"model {self.model.name}",
                remedy=f"run {self.model.name}_data for the history first, or give `to`",
            )
        logical_date = context.get("logical_date")
        if logical_date is None:
            return date.fromisoformat(found)
        # What was known at the run's 00:00: a run of the past trains as it would have trained then.
        return min(date.fromisoformat(found), logical_date.date() - timedelta(days=self.model.label.lag))


class BuildTrainingSetOperator(TrainingOperator):
    """Features and labels, pinned and split by time."""

    stage: ClassVar[str] = "training_set"


class TuneModelOperator(TrainingOperator):
    """Searches for training parameters: each trial is a job of the training's compute. A retry goes on with the study.

    The input ``training_set`` has to be given. What it returns is an input of `TrainModelOperator`, under ``tune``.
    """

    stage: ClassVar[str] = "tune"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._search: Search | None = None
        self._study: dict[str, Any] = {}

    def execute(self, context: "Context") -> dict[str, Any]:
        """Search, and then record what was found."""
        hook = PlatformHook(self.airflow_ml_conn_id, self.platform)
        try:
            request = self.request(context, hook.platform)
            if "training_set" not in request.inputs:
                raise SpecError(
                    "there is nothing to train on",
                    where=f"task {self.task_id}",
                    remedy='give it inputs={"training_set": build_training_set.output}',
                )
            compute, secrets = hook.compute("train", self.compute), hook.secrets()
            go_with_supervisor(compute)
            tell = self._teller(context, hook.platform, secrets.values())
            self._search = Search(request, compute, secrets, tell)
            self._study = self._search.run()
        except AirflowMLError as error:
            raise as_airflow(error) from None
        self._search = None
        return super().execute(context)

    def parameters(self, context: "Context") -> dict[str, Any]:
        """With the study, when there is one."""
        return super().parameters(context) | ({"study": self._study} if self._study else {})

    def on_kill(self) -> None:
        """Ask the trials to end, or the job that records them."""
        if self._search is not None:
            self._search.cancel(wait=False)
        super().on_kill()


class TrainModelOperator(TrainingOperator):
    """Trains by Horovod; a retry goes on from the last checkpoint.

    Args:
        training_params: Overrides of ``model.training.params`` for this run, templated; a mapping, or JSON of one; or
            ``"best"`` for those of the study that ``inputs`` name under ``tune``, or of the last one.
        **kwargs: As of `StageOperator`.
    """

    stage: ClassVar[str] = "train"
    template_fields: Sequence[str] = (*TrainingOperator.template_fields, "training_params")

    def __init__(self, *, training_params: Mapping[str, Any] | str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.training_params = training_params

    def parameters(self, context: "Context") -> dict[str, Any]:
        """With the overrides that are set."""
        if self.training_params == "best":
            return super().parameters(context) | {"training": "best"}
        given = json.loads(self.training_params) if isinstance(self.training_params, str) else self.training_params
        changes = {name: value for name, value in (given or {}).items() if value is not None}
        return super().parameters(context) | ({"training": changes} if changes else {})


class EvaluateModelOperator(TrainingOperator):
    """The trained model and the champion on the same test rows."""

    stage: ClassVar[str] = "evaluate"


class ExportModelOperator(TrainingOperator):
    """The trained network as a SavedModel, refused unless it answers the same."""

    stage: ClassVar[str] = "export"


class CheckGatesOperator(TrainingOperator):
    """The declared gates. A rejected model is a normal result: the task succeeds, and says ``rejected``."""

    stage: ClassVar[str] = "gates"
    noted: ClassVar[bool] = True


class RegisterModelOperator(TrainingOperator):
    """A version in the registry, rejected or not."""

    stage: ClassVar[str] = "register"
