"""`FitContext`: what a ``fit`` function is given in each rank."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import numpy as np
import torch
from torch import nn

from airflow_ml.lifecycle.errors import TrainingFailed
from airflow_ml.lifecycle.preprocessing import Preprocessing
from airflow_ml.training.checkpoints import Checkpoints
from airflow_ml.training.data import Batch, Shard
from airflow_ml.training.events import EventWriter
from airflow_ml.training.job import TrainingJob
from airflow_ml.training.metrics import roc_auc

_VALIDATION_ROWS = 8192


class FitContext:
    """One rank of a training. Horovod is initialised; every rank has one of these.

    A ``fit`` of your own usually builds a network and returns ``airflow_ml.training.loop.train(context, network)``,
    which averages gradients, warms up, stops early, checkpoints and resumes. One that loops by itself uses what is
    here, with two rules: methods that talk to the other ranks (`validate`, `restored`, `sample`) are called by every
    rank, and what it returns is the same module, with the same weights, on every rank.

    Args:
        job: What is to be trained.
        events: Where reports go.

    Attributes:
        params: Parameters of the declaration, overridden by those of the request.
        seed: Everything random must come from it.
        rank: From 0.
        size: Number of ranks.
        device: Of this rank's network and batches.
        preprocessing: Vocabularies and scaling; ``preprocessing.cardinalities`` sizes embeddings.
        train: This rank's rows of the training split.
        validation: This rank's rows of the validation split.
        history: What `report` was told, one dict an epoch.
        resumed_from: Epoch of the checkpoint that `restored` found, or 0.
    """

    def __init__(self, job: TrainingJob, events: EventWriter) -> None:
        self.params: dict[str, Any] = job.params
        self.seed = job.seed
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.device = _gpu() if job.gpus_per_worker else torch.device("cpu")
        self.preprocessing = Preprocessing.from_json(Path(job.preprocessing).read_text(encoding="utf-8"))
        self.train = Shard.load(Path(job.train), self.preprocessing, job.label, self.rank, self.size)
        self.validation = Shard.load(Path(job.validation), self.preprocessing, job.label, self.rank, self.size)
        self.history: list[dict[str, Any]] = []
        self.resumed_from = 0
        self.events = events
        self._checkpoints = Checkpoints(Path(job.state), job.fingerprint)

    def seed_everything(self, epoch: int) -> None:
        """Seed torch for an epoch (0 for building the network).

        The stream depends on seed, epoch and rank only, so a resumed epoch draws what it would have drawn, and no
        generator's state has to be kept. Epoch 0 is the same on every rank: equal networks from the start.
        """
        words = [self.seed, epoch, self.rank if epoch else 0]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1))

    def batches(self, batch_size: int, epoch: int) -> Iterator[Batch]:
        """This rank's part of each global batch of an epoch, on its device.

        The number of batches is the same on every rank; a part may be empty. Scale a *sum* of losses by ``size /
        batch.global_rows`` before Horovod averages the gradients, and the step is exactly the mean over the global
        batch.
        """
        for batch in self.train.shuffled(batch_size, self.seed, epoch):
            yield self._moved(batch)

    def sample(self, rows: int) -> torch.Tensor:
        """Numeric inputs of training rows drawn by the seed: the same on every rank, for any number of ranks.

        Returns:
            float32 [rows at most, numeric columns], in no meaningful order.
        """
        drawn = np.random.default_rng([self.seed, 0]).permutation(self.train.total)[:rows]
        mine = np.flatnonzero(np.isin(self.train.rows, drawn))
        gathered: torch.Tensor = hvd.allgather(self.train.numeric[torch.from_numpy(mine)], name="sample")
        return gathered

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Loss and ROC AUC of the whole validation split, the same numbers on every rank."""
        network.eval()
        logits: list[torch.Tensor] = [torch.empty(0)]
        with torch.no_grad():
            for batch in self.validation.in_order(_VALIDATION_ROWS):
                moved = self._moved(batch)
                logits.append(one_logit_a_row(network(moved.categorical, moved.numeric), len(batch)).cpu())
        mine = torch.cat(logits)
        total = nn.functional.binary_cross_entropy_with_logits(
            mine.double(), self.validation.labels.double(), reduction="sum"
        )
        summed = hvd.allreduce(total.reshape(1), op=hvd.Sum, name="validation.loss")
        scores = hvd.allgather(torch.stack([mine, self.validation.labels], dim=1), name="validation.scores").numpy()
        auc = roc_auc(scores[:, 1], scores[:, 0])
        return {
            "validation_loss": float(summed.item()) / self.validation.total,
            "validation_roc_auc": float("nan") if auc is None else auc,
        }

    def report(self, epoch: int, **metrics: float | bool) -> None:
        """Record an epoch: for the progress shown, for MLflow, and for the history kept with the model."""
        self.history.append({"epoch": epoch, **metrics})
        if self.rank == 0:
            self.events.send("epoch", epoch=epoch, **metrics)

    def checkpoint(self, epoch: int, state: dict[str, Any]) -> None:
        """Keep the state after a finished epoch, with the history; rank 0 writes it, atomically."""
        if self.rank == 0:
            self._checkpoints.save(epoch, {"fit": state, "history": self.history})

    def restored(self) -> tuple[int, dict[str, Any]] | None:
        """Epoch and state of the newest checkpoint, the same on every rank, or None; restores the history too."""
        found = self._checkpoints.newest() if self.rank == 0 else None
        found = hvd.broadcast_object(found, root_rank=0, name="checkpoint")
        if found is None:
            return None
        epoch, kept = found
        self.history = list(kept["history"])
        self.resumed_from = epoch
        if self.rank == 0:
            self.events.send("resumed", epoch=epoch)
        return epoch, kept["fit"]

    def _moved(self, batch: Batch) -> Batch:
        if self.device.type == "cpu":
            return batch
        return Batch(
            batch.categorical.to(self.device),
            batch.numeric.to(self.device),
            batch.labels.to(self.device),
            batch.global_rows,
        )


def one_logit_a_row(logits: torch.Tensor, rows: int) -> torch.Tensor:
    """What a network answered, if it is float32 [rows].

    Raises:
        TrainingFailed: It is of another shape or type.
    """
    if logits.shape != (rows,) or logits.dtype != torch.float32:
        raise TrainingFailed(
            f"the network answers {tuple(logits.shape)} {logits.dtype} for {rows} rows",
            where="the module that fit returned",
            remedy="return one float32 logit a row, shape [batch]: `.squeeze(1)` after a last layer of width 1",
        )
    return logits


def _gpu() -> torch.device:
    """The device of this rank on its machine.

    Raises:
        TrainingFailed: torch sees too few devices, or this Horovod cannot average what lies on one.
    """
    remedy = "train with gpus_per_worker=0, or where torch sees the devices and Horovod was built with NCCL"
    seen = torch.cuda.device_count()
    if seen <= hvd.local_rank():
        raise TrainingFailed(f"rank {hvd.rank()} needs a GPU, and torch sees {seen}", remedy=remedy)
    if not hvd.nccl_built():
        raise TrainingFailed("this build of Horovod cannot average gradients on GPUs", remedy=remedy)
    return torch.device("cuda", hvd.local_rank())
