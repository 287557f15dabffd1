"""The training loop of one rank: averaged gradients, warm-up, early stopping, a checkpoint each epoch."""

import copy
import math
import time
from typing import Any

import horovod.torch as hvd
import numpy as np
import torch
from torch import Tensor, nn

from airflow_ml.training.context import FitContext, one_logit_a_row
from airflow_ml.training.network import TabularNetwork
from airflow_ml.training.params import Params, parse

_PROGRESS_EVERY_S = 2.0
_SAMPLE_ROWS = 100_000


def fit(context: FitContext) -> nn.Module:
    """The built-in ``fit``: the tabular network, sized by the data and the parameters."""
    params = parse(context.params, own_fit=False)
    context.seed_everything(0)
    edges = bin_edges(context.sample(_SAMPLE_ROWS), params.bins) if params.bins else None
    network = TabularNetwork(
        context.preprocessing.cardinalities,
        len(context.preprocessing.numeric),
        params.hidden,
        params.embedding,
        params.dropout,
        edges,
    )
    return train(context, network)


def train(context: FitContext, network: nn.Module) -> nn.Module:
    """Train a network and return it with the weights of its best epoch, the same on every rank.

    Killed at any instant and started again, it resumes after the last finished epoch and ends with the same weights,
    bit by bit.

    Args:
        context: Of this rank.
        network: ``(categorical int64 [batch, columns], numeric float32 [batch, columns]) → logits float32 [batch]``,
            built the same on every rank (`FitContext.seed_everything` with 0 before).
    """
    params = parse(context.params, own_fit=True)
    network = network.to(context.device)
    hvd.broadcast_parameters(network.state_dict(), root_rank=0)
    optimizer = _optimizer(network, params)
    best: dict[str, Any] = {"epoch": 0, "loss": math.inf, "model": _weights(network)}
    first = 1
    restored = context.restored()
    if restored is not None:
        epoch, state = restored
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        best = state["best"]
        first = epoch + 1
    pace = _Pace(context, params)
    for epoch in range(first, params.epochs + 1):
        if epoch - 1 - best["epoch"] >= params.patience:
            break
        context.seed_everything(epoch)
        began = time.perf_counter()
        loss = _epoch(context, network, optimizer, params, epoch, pace)
        seconds = time.perf_counter() - began
        found = context.validate(network)
        # Only a smaller number is better: a NaN never is.
        better = found["validation_loss"] < best["loss"]
        if better:
            best = {"epoch": epoch, "loss": found["validation_loss"], "model": _weights(network)}
        context.report(
            epoch,
            train_loss=loss,
            **found,
            learning_rate=optimizer.param_groups[0]["lr"],
            seconds=round(seconds, 3),
            rows_per_s=round(context.train.total / seconds, 1),
            best=better,
        )
        context.checkpoint(epoch, {"model": _weights(network), "optimizer": optimizer.state_dict(), "best": best})
    network.load_state_dict(best["model"])
    return network


def learning_rate(params: Params, step: int, steps: int) -> float:
    """Of a step: rises linearly over the warm-up, then falls along half a cosine.

    Args:
        params: Of the training.
        step: Steps made before this one, over all epochs.
        steps: Steps of an epoch.
    """
    warmup = params.warmup_epochs * steps
    if step < warmup:
        return params.learning_rate * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1.0, params.epochs * steps - warmup)
    return params.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


class _Pace:
    """Tells every few seconds how far a training is."""

    def __init__(self, context: FitContext, params: Params) -> None:
        self.context = context
        self.epochs = params.epochs
        self.steps = context.train.steps(params.batch_size)
        self.batch_size = params.batch_size
        self.done = 0
        self.began = self.told = time.monotonic()

    def step(self, epoch: int, step: int, loss: Tensor) -> None:
        self.done += 1
        now = time.monotonic()
        if self.context.rank or now - self.told < _PROGRESS_EVERY_S:
            return
        self.told = now
        pace = self.done / (now - self.began)
        left = (self.epochs - epoch + 1) * self.steps - step
        self.context.events.send(
            "progress",
            epoch=epoch,
            epochs=self.epochs,
            step=step,
            steps=self.steps,
            loss=round(float(loss), 5),
            rows_per_s=round(pace * self.batch_size),
            eta_s=round(left / pace),
        )


def _epoch(
    context: FitContext,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    params: Params,
    epoch: int,
    pace: _Pace,
) -> float:
    """One pass; the mean loss over all rows of all ranks, as it was while training."""
    network.train()
    steps = context.train.steps(params.batch_size)
    total = torch.zeros(1, dtype=torch.float64)
    for number, batch in enumerate(context.batches(params.batch_size, epoch)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(params, (epoch - 1) * steps + number, steps)
        optimizer.zero_grad()
        logits = one_logit_a_row(network(batch.categorical, batch.numeric), len(batch))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, batch.labels, reduction="sum")
        # Horovod divides the sum of all ranks by their number: this makes the step the mean over the global batch.
        (loss * (context.size / batch.global_rows)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach().double().cpu()
        pace.step(epoch, number + 1, loss.detach() / max(1, len(batch)))
    summed = hvd.allreduce(total, op=hvd.Sum, name="train.loss")
    return float(summed.item()) / context.train.total


def _optimizer(network: nn.Module, params: Params) -> torch.optim.Optimizer:
    """AdamW that averages gradients over ranks.

    One group of gradients: they are reduced together, in one message and in one order, so that sums do not depend on
    timing.
    """
    matrices = [p for name, p in network.named_parameters() if p.ndim > 1 and "embedding" not in name]
    others = [p for name, p in network.named_parameters() if not (p.ndim > 1 and "embedding" not in name)]
    groups = [{"params": matrices, "weight_decay": params.weight_decay}, {"params": others, "weight_decay": 0.0}]
    plain = torch.optim.AdamW([g for g in groups if g["params"]], lr=params.learning_rate, fused=True)
    optimizer: torch.optim.Optimizer = hvd.DistributedOptimizer(
        plain, named_parameters=network.named_parameters(), groups=1
    )
    return optimizer


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy({name: value.detach().cpu() for name, value in network.state_dict().items()})


def bin_edges(sample: Tensor, bins: int) -> Tensor:
    """Edges of each column's bins [columns, bins + 1], rising; equal ones make bins without width.

    Quantiles, except that one value counts as a bin's share of the rows at most: it rains on few flights, and quantiles
    of all rows would spend nearly every bin on the zero of the others. A column of few values has an edge at each.

    Args:
        sample: [rows, columns], finite.
        bins: At least 1.
    """
    if not sample.numel():
        return torch.zeros(sample.shape[1], bins + 1)
    return torch.from_numpy(np.stack([_edges(column, bins) for column in sample.numpy().T]).astype(np.float32))


def _edges(column: np.ndarray[Any, Any], bins: int) -> np.ndarray[Any, Any]:
    values, counts = np.unique(column, return_counts=True)
    if len(values) <= bins + 1:
        return np.pad(values, (0, bins + 1 - len(values)), mode="edge")
    weights = np.minimum(counts, len(column) / bins)
    shares = (np.cumsum(weights) - weights / 2) / weights.sum()
    edges: np.ndarray[Any, Any] = np.interp(np.linspace(0, 1, bins + 1), shares, values)
    return edges
