"""Tuning: what is searched for before a training, and how much it may take."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from airflow_ml.spec.base import Frozen

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Between(Frozen):
    """A number in a range, both ends included; a whole one when both ends are."""

    kind: Literal["between"] = "between"
    low: int | Finite
    high: int | Finite
    log: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low: {self.low} is not below high {self.high}; swap them, or leave the parameter out")
        if self.log and self.low <= 0:
            raise ValueError(f"low: {self.low} has no logarithm; begin above 0, or leave out `log`")
        return self


class OneOf(Frozen):
    """One of some values."""

    kind: Literal["one_of"] = "one_of"
    values: tuple[Any, ...] = Field(min_length=2)


def between(low: float, high: float, log: bool = False) -> Between:
    """A number from ``low`` to ``high``; with ``log``, of any magnitude in between alike."""
    return Between(low=low, high=high, log=log)


def one_of(*values: Any) -> OneOf:
    """One of these values."""
    return OneOf(values=values)


class Tune(Frozen):
    """A search for training parameters: trainings as jobs of the training's compute, judged by their validation split.

    The study is kept in a database, and goes on where it was: more ``trials`` later are more of the same study.

    Attributes:
        search: Parameter of ``training.params`` to where it is looked for.
        trials: Trainings at most, those included that are ended early.
        parallel: Jobs at a time.
        metric: What is best: the lowest ``validation_loss``, or the highest ``validation_roc_auc``.
        prune: End a trial that is worse than the median of those before it at the same epoch.
        hours: Time that one run of the search may take; None is any.
        gpu_hours: GPU-hours that all trials of the study may take, those that run included; None is any.
        use_best: Whether a training that is given no parameters takes those of the last study.
        seed: Of the search.
    """

    search: dict[str, Between | OneOf] = Field(min_length=1)
    trials: int = Field(default=20, ge=1)
    parallel: int = Field(default=1, ge=1)
    metric: Literal["validation_loss", "validation_roc_auc"] = "validation_loss"
    prune: bool = True
    hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    gpu_hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    use_best: bool = False
    seed: int = 1
