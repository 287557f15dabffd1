"""`FitContext`: what a ``fit`` function is given in each rank."""

import io
import os
import random
import time
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
from airflow_ml.training.events import EventWriter
from airflow_ml.training.job import TrainingJob
from airflow_ml.training.metrics import roc_auc
from airflow_ml.training.params import parse
from airflow_ml.training.pulse import Pulse
from airflow_ml.training.ranks import STOP, Yielded
from airflow_ml.training.stream import Batch, Split

_VALIDATION_ROWS = 8192
_EXACT_ROWS = 1 << 22
"""Up to so many rows, every rank holds all scores, and the ROC AUC is exact; of more, scores are counted in bins."""
_BINS = 1 << 16


class FitContext:
    """One rank of a training. Horovod is initialised; every rank has one of these.

    A ``fit`` of your own usually builds a network and returns ``airflow_ml.training.loop.train(context, network)``,
    which averages gradients, warms up, stops early, checkpoints and resumes. One that loops by itself uses what is
    here, with two rules: methods that talk to the other ranks (`validate`, `restored`, `checkpoint`, `sample`) are
    called by every rank, and what it returns is the same module, with the same weights, on every rank.

    Args:
        job: What is to be trained.
        events: Where reports go.
        pulse: Told of each step, so that a rank that hangs is found.

    Attributes:
        params: Parameters of the declaration, overridden by those of the request.
        seed: Everything random must come from it.
        rank: From 0.
        size: Number of ranks.
        device: Of this rank's network and batches.
        preprocessing: Vocabularies and scaling; ``preprocessing.cardinalities`` sizes embeddings.
        train: This rank's part of the training split.
        validation: This rank's part of the validation split.
        grouped: Whether all gradients are exchanged together, rather than fused by Horovod.
        checkpoints: Where they lie.
        waited_s: What `batches` has waited for data.
        history: What `report` was told, one dict an epoch.
        resumed_from: Epoch of the checkpoint that `restored` found, or 0.
    """

    def __init__(self, job: TrainingJob, events: EventWriter, pulse: Pulse) -> None:
        self.params: dict[str, Any] = job.params
        self.seed = job.seed
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.device = _gpu() if job.gpus_per_worker else torch.device("cpu")
        self.preprocessing = Preprocessing.from_json(Path(job.preprocessing).read_text(encoding="utf-8"))
        window_rows = parse(job.params, own_fit=True).window_rows
        self.train, self.validation = (
            Split(Path(folder), self.preprocessing, job.label, self.rank, self.size, window_rows)
            for folder in (job.train, job.validation)
        )
        self.waited_s = 0.0
        self.grouped = job.fusion_threshold_mb is None
        self.history: list[dict[str, Any]] = []
        self.resumed_from = 0
        self.events = events
        self.pulse = pulse
        self.checkpoints = Checkpoints(job.state, job.fingerprint)

    def seed_everything(self, epoch: int, step: int = 0) -> None:
        """Seed torch, numpy and Python for an epoch (0 to build the network), or for what follows a checkpoint in it.

        The streams depend on seed, epoch, step and rank only, so a resumed epoch draws what it would have drawn, and no
        generator's state has to be kept. Epoch 0 is the same on every rank: equal networks from the start.
        """
        words = [self.seed, epoch, self.rank if epoch else 0, *([step] if step else [])]
        seed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)
        torch.manual_seed(seed)
        # Of a user's own code: the generators that nobody has to be given.
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)

    def batches(self, batch_size: int, epoch: int, step: int = 0) -> Iterator[Batch]:
        """This rank's part of each global batch of an epoch, on its device, without those of the first steps.

        The number of batches is the same on every rank; a part may be empty. Scale a *sum* of losses by ``size /
        batch.global_rows`` before Horovod averages the gradients, and the step is exactly the mean over the global
        batch.
        """
        coming = self.train.shuffled(batch_size, self.seed, epoch, step)
        for number in range(step + 1, self.train.steps(batch_size) + 1):
            began = time.perf_counter()
            batch = self._moved(next(coming))
            self.waited_s += time.perf_counter() - began
            self.pulse.move(epoch, number)
            yield batch

    def sample(self, rows: int) -> torch.Tensor:
        """Numeric inputs of training rows drawn by the seed: the same on every rank, for any number of ranks.

        Returns:
            float32 [rows at most, numeric columns], in no meaningful order.
        """
        gathered: torch.Tensor = hvd.allgather(self.train.sample(rows, self.seed), name="sample")
        return gathered

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Loss and ROC AUC of the whole validation split, the same numbers on every rank."""
        network.eval()
        exact = self.validation.total <= _EXACT_ROWS
        total = torch.zeros(1, dtype=torch.float64)
        scores, counts = [torch.empty(0, 2)], torch.zeros(2, _BINS, dtype=torch.int64)
        with torch.no_grad():
            for batch in self.validation.in_order(_VALIDATION_ROWS):
                self.pulse.move()
                moved = self._moved(batch)
                logits = one_logit_a_row(network(moved.categorical, moved.numeric), len(batch)).cpu()
                if exact:
                    scores.append(torch.stack([logits, batch.labels], dim=1))
                else:
                    total += _summed_loss(logits, batch.labels)
                    place = (torch.sigmoid(logits.double()).nan_to_num() * (_BINS - 1)).long()
                    for label in (0, 1):
                        counts[label] += torch.bincount(place[batch.labels == label], minlength=_BINS)
        if exact:
            mine = torch.cat(scores)
            total += _summed_loss(mine[:, 0], mine[:, 1])
            everyone = hvd.allgather(mine, name="validation.scores").numpy()
            auc = roc_auc(everyone[:, 1], everyone[:, 0])
        else:
            auc = binned_auc(hvd.allreduce(counts, op=hvd.Sum, name="validation.counts"))
        summed = hvd.allreduce(total, op=hvd.Sum, name="validation.loss")
        return {
            "validation_loss": float(summed.item()) / self.validation.total,
            "validation_roc_auc": float("nan") if auc is None else auc,
        }

    def report(self, epoch: int, **metrics: float | bool) -> None:
        """Record an epoch: for the progress shown, for MLflow, and for the history kept with the model."""
        self.pulse.move()
        self.history.append({"epoch": epoch, **metrics})
        if self.rank == 0:
            self.events.send("epoch", epoch=epoch, **metrics)

    def checkpoint(self, epoch: int, state: dict[str, Any], step: int = 0) -> None:
        """Keep the state after a finished epoch, with the history; rank 0 writes it, atomically.

        Where the number of ranks may change, it changes here.

        Args:
            epoch: That is finished.
            state: What `restored` is to return.
            step: Steps of the next epoch that are done, too.
        """
        self.pulse.move()
        if self.rank == 0:
            self.checkpoints.save(epoch, {"fit": state, "history": self.history}, step)
            self.events.send("checkpoint", epoch=epoch, step=step)
        stop = os.environ.get(STOP)
        if stop is None:
            return
        # The file comes to each rank when it comes: they agree.
        asked = hvd.allreduce(torch.tensor([float(os.path.exists(stop))]), op=hvd.Sum, name="stop")
        if float(asked.item()):
            raise Yielded

    def restored(self) -> tuple[int, dict[str, Any]] | None:
        """Epoch and state of the newest checkpoint, the same on every rank, or None; restores the history too."""
        self.pulse.move()
        found = _from_rank_0(self.checkpoints.newest() if self.rank == 0 else None)
        if found is None:
            return None
        epoch, kept = found
        self.history = list(kept["history"])
        self.resumed_from = epoch
        if self.rank == 0:
            self.events.send("resumed", epoch=epoch, step=int(kept["fit"].get("step", 0)))
        return epoch, kept["fit"]

    def _moved(self, batch: Batch) -> Batch:
        if self.device.type == "cpu":
            return batch
        return Batch(
            batch.categorical.to(self.device),
            batch.numeric.to(self.device),
            batch.labels.to(self.device),
            batch.places.to(self.device),
            batch.global_rows,
        )


def _from_rank_0(found: tuple[int, dict[str, Any]] | None) -> tuple[int, dict[str, Any]] | None:
    """What rank 0 has found, read as a checkpoint is: Horovod's own way unpickles whatever the network sends."""
    written = io.BytesIO()
    if found is not None:
        torch.save(found, written)
    length = int(hvd.broadcast(torch.tensor([written.tell()]), root_rank=0, name="checkpoint.length").item())
    if not length:
        return None
    if found is not None:
        hvd.broadcast_(torch.frombuffer(written.getbuffer(), dtype=torch.uint8), root_rank=0, name="checkpoint")
        return found
    received = hvd.broadcast_(torch.empty(length, dtype=torch.uint8), root_rank=0, name="checkpoint")
    epoch, kept = torch.load(io.BytesIO(received.numpy()), map_location="cpu", weights_only=True)
    return epoch, kept


def binned_auc(counts: torch.Tensor) -> float | None:
    """ROC AUC of scores that are counted in bins, those of one bin as ties; None where there is only one class.

    Args:
        counts: int64 [negative and positive, bins], by rising score.
    """
    negative, positive = counts.double()
    pairs = float(negative.sum() * positive.sum())
    below = negative.cumsum(0) - negative
    return float((positive * (below + negative / 2)).sum()) / pairs if pairs else None


def _summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits.double(), labels.double(), reduction="sum")


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
