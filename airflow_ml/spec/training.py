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
        workers: Processes of one machine, or pods of a cluster: where they run is the platform's business.
        min_workers: In pods, a training goes on with so many while others are replaced or have not come yet; None needs
            all of them.
        max_workers: In pods, so many are asked for: a training that needs ``workers`` to begin takes in those that
            come later. None is ``workers``. A step's batch stays the same, shared out among those that are there.
        gpus_per_worker: 0 trains on the CPU, as one rank a worker; otherwise a worker has a rank for each of its GPUs.
        image: For computes that run containers.
        fusion_threshold_mb: Horovod fuses gradients up to so many MiB into a message (``HOROVOD_FUSION_THRESHOLD``).
            What is fused depends on timing, and with more than two ranks so do the last bits of the weights. None
            exchanges all gradients of a step in one message.
        cycle_time_ms: Between two exchanges are at least so many milliseconds, in which Horovod collects what to fuse
            (``HOROVOD_CYCLE_TIME``); None is its default, 1 ms.
        step_timeout_s: A rank that gets no further for so long (a step, a batch of the validation, the preparation of
            ``fit``) hangs: it is ended, and the training goes on from its last checkpoint.
        window: Days of labelled partitions in a training set.
        split: How the window is split.
        params: For ``fit``. The built-in network knows epochs, batch_size (global), learning_rate, warmup_epochs,
            patience, hidden, embedding, bins, dropout, weight_decay, reduction, compression,
            backward_passes_per_step, local_steps, precision, window_rows, checkpoint_steps.
        seed: Everything random comes from here.
        min_labels: A training set with fewer labelled rows in its train split is refused.
        min_count: A category that the train split saw less often is treated as unknown.
    """

    kind: Literal["horovod"] = "horovod"
    fit: EntryPoint | None = None
    workers: int = Field(default=2, ge=1)
    min_workers: int | None = Field(default=None, ge=1)
    max_workers: int | None = Field(default=None, ge=1)
    gpus_per_worker: int = Field(default=0, ge=0)
    image: str | None = None
    fusion_threshold_mb: float | None = Field(default=None, ge=0, le=4096)
    cycle_time_ms: float | None = Field(default=None, gt=0, le=10_000)
    step_timeout_s: float = Field(default=600.0, ge=1, allow_inf_nan=False)
    window: Days = Field(default=180, ge=3)
    split: Split = Split()
    params: dict[str, Any] = Field(default_factory=dict)
    seed: int = 1
    min_labels: int = Field(default=1000, ge=1)
    min_count: int = Field(default=1, ge=1)

    @property
    def ranks(self) -> int:
        """Processes that average their gradients."""
        return self.workers * max(1, self.gpus_per_worker)

    @property
    def most_workers(self) -> int:
        """Pods that are asked for."""
        return self.max_workers or self.workers

    @model_validator(mode="after")
    def _enough_workers(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(
                f"min_workers: {self.min_workers} are more than the {self.workers} workers; ask for fewer, or raise "
                "`workers`"
            )
        if self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(
                f"max_workers: {self.max_workers} are fewer than the {self.workers} workers; ask for more, or lower "
                "`workers`"
            )
        return self

    @model_validator(mode="after")
    def _room_to_train(self) -> Self:
        held_out = self.split.validation + self.split.test
        if held_out >= self.window:
            raise ValueError(
                f"window {self.window}d leaves nothing to train on: validation and test take {held_out}d; "
                "lengthen `window` or shorten `split`"
            )
        return self
