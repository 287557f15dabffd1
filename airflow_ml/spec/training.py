"""Training: the window, its split by time, and Horovod."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from airflow_ml.spec.base import Days, EntryPoint, Frozen


class Split(Frozen):
    """A training window is split by time, never at random: train, then validation, then test, the newest.

    Attributes:
        validation: Days before the test split; early stopping looks here.
        test: The newest days of the window; gates look here.
    """

    validation: Days = Field(default=14, ge=1)
    test: Days = Field(default=14, ge=1)


class Horovod(Frozen):
    """Training as Horovod ranks that average their gradients.

    Attributes:
        fit: ``fn(context: airflow_ml.training.context.FitContext) -> torch.nn.Module``, or None for the built-in
            tabular network (embeddings and numeric columns).
        workers: Processes (ranks). Where they run is the platform's business.
        gpus_per_worker: 0 trains on the CPU.
        image: For computes that run containers.
        window: Days of labelled partitions in a training set.
        split: How the window is split.
        params: For ``fit``. The built-in network knows epochs, batch_size (global), learning_rate, warmup_epochs,
            patience, hidden, embedding, bins, dropout, weight_decay.
        seed: Everything random comes from here.
        min_labels: A training set with fewer labelled rows in its train split is refused.
        min_count: A category that the train split saw less often is treated as unknown.
    """

    kind: Literal["horovod"] = "horovod"
    fit: EntryPoint | None = None
    workers: int = Field(default=2, ge=1)
    gpus_per_worker: int = Field(default=0, ge=0)
    image: str | None = None
    window: Days = Field(default=180, ge=3)
    split: Split = Split()
    params: dict[str, Any] = Field(default_factory=dict)
    seed: int = 1
    min_labels: int = Field(default=1000, ge=1)
    min_count: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _room_to_train(self) -> Self:
        held_out = self.split.validation + self.split.test
        if held_out >= self.window:
            raise ValueError(
                f"window {self.window}d leaves nothing to train on: validation and test take {held_out}d; "
                "lengthen `window` or shorten `split`"
            )
        return self
