"""The training loop of one rank: averaged gradients, warm-up, early stopping, a checkpoint each epoch."""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import horovod.torch as hvd
import numpy as np
import torch
from torch import Tensor, nn

from airflow_ml.training.context import FitContext, one_logit_a_row
from airflow_ml.training.exchange import Exchange, exchange_of
from airflow_ml.training.network import Dropout, TabularNetwork
from airflow_ml.training.params import Params, parse
from airflow_ml.training.stream import Batch

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
    exchange = exchange_of(network, params, context.grouped)
    optimizer = exchange.optimizer
    best: dict[str, Any] = {"epoch": 0, "loss": math.inf, "model": _weights(network)}
    first, done, partial = 1, 0, 0.0
    restored = context.restored()
    if restored is not None:
        epoch, state = restored
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        best = state["best"]
        first, done, partial = epoch + 1, state.get("step", 0), state.get("loss", 0.0)
    pace = _Pace(context, params)
    for epoch in range(first, params.epochs + 1):
        if epoch - 1 - best["epoch"] >= params.patience:
            break
        context.seed_everything(epoch, done)
        began, waited_s = time.perf_counter(), context.waited_s

        def commit(step: int, loss: float, epoch: int = epoch, best: dict[str, Any] = best) -> None:
            exchange.settle()
            kept = {"model": _weights(network), "optimizer": optimizer.state_dict(), "best": best}
            context.checkpoint(epoch - 1, {**kept, "step": step, "loss": loss}, step)
            context.seed_everything(epoch, step)

        loss = epoch_of(context, network, exchange, params, epoch, Position(done, partial), pace.step, commit)
        exchange.settle()
        skipped, done, partial = done, 0, 0.0
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
            rows_per_s=round((context.train.total - skipped * params.batch_size) / seconds, 1),
            data_wait_share=round((context.waited_s - waited_s) / seconds, 4),
            best=better,
        )
        context.checkpoint(epoch, {"model": _weights(network), "optimizer": optimizer.state_dict(), "best": best})
    network.load_state_dict(best["model"])
    return network


@dataclass(frozen=True)
class Position:
    """Where in an epoch a checkpoint was made.

    Attributes:
        step: Steps that are done.
        loss: Sum over the rows of those steps, of all ranks.
    """

    step: int
    loss: float


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


def epoch_of(
    context: FitContext,
    network: nn.Module,
    exchange: Exchange,
    params: Params,
    epoch: int,
    begun: Position,
    told: Callable[[int, int, Tensor], None] = lambda epoch, step, loss: None,
    commit: Callable[[int, float], None] = lambda step, loss: None,
) -> float:
    """One pass, or the rest of one.

    Args:
        context: Of this rank.
        network: Is trained.
        exchange: Of its gradients.
        params: Of the training.
        epoch: From 1.
        begun: What of it is done already.
        told: Called with epoch, step and its mean loss.
        commit: Called where a checkpoint is due, with the step and the sum of losses until then.

    Returns:
        The mean loss over all rows of all ranks, as it was while training.
    """
    network.train()
    dropouts = [module for module in network.modules() if isinstance(module, Dropout)]
    steps = context.train.steps(params.batch_size)
    optimizer, reduced = exchange.optimizer, autocast(context.device, params.precision)
    total = torch.tensor([begun.loss if context.rank == 0 else 0.0], dtype=torch.float64)
    for number, batch in enumerate(context.batches(params.batch_size, epoch, begun.step), start=begun.step):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(params, (epoch - 1) * steps + number, steps)
        optimizer.zero_grad()
        scale = exchange.scale(len(batch), batch.global_rows)
        of_batch = torch.zeros(1, dtype=torch.float64)
        for part in _parts(batch, params.backward_passes_per_step):
            for layer, dropout in enumerate(dropouts):
                dropout.draw((context.seed, epoch, number, layer), part.places)
            with reduced:
                logits = network(part.categorical, part.numeric)
            logits = one_logit_a_row(logits if reduced is _FULL else logits.float(), len(part))
            loss = nn.functional.binary_cross_entropy_with_logits(logits, part.labels, reduction="sum")
            (loss * scale).backward()  # type: ignore[no-untyped-call]
            of_batch += loss.detach().double().cpu()
        exchange.step()
        total += of_batch
        told(epoch, number + 1, of_batch / max(1, len(batch)))
        if params.checkpoint_steps and (number + 1) % params.checkpoint_steps == 0 and number + 1 < steps:
            commit(number + 1, float(hvd.allreduce(total, op=hvd.Sum, name="train.loss.so_far").item()))
    summed = hvd.allreduce(total, op=hvd.Sum, name="train.loss")
    return float(summed.item()) / context.train.total


def _parts(batch: Batch, number: int) -> Iterator[Batch]:
    """A batch in so many parts, the last ones of which may be empty."""
    if number == 1:
        yield batch
        return
    parts = (each.tensor_split(number) for each in (batch.categorical, batch.numeric, batch.labels, batch.places))
    for categorical, numeric, labels, places in zip(*parts, strict=True):
        yield Batch(categorical, numeric, labels, places, batch.global_rows)


_FULL = contextlib.nullcontext()


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Around a forward pass in training: bfloat16 where it is asked for, and on GPUs that can, unless it is refused."""
    gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if precision == "bfloat16" or (precision == "auto" and gpu):
        return torch.autocast(device.type, torch.bfloat16)
    return _FULL


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
