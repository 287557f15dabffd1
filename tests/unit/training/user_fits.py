"""What users could declare as `fit`."""

import contextlib
import os
import pickle
import time
from collections.abc import Iterator
from unittest import mock

import cloudpickle
import horovod.torch as hvd
import torch
from torch import nn

from airflow_ml.lifecycle.errors import TrainingFailed
from airflow_ml.training.checkpoints import Checkpoints
from airflow_ml.training.context import FitContext
from airflow_ml.training.loop import fit, train
from airflow_ml.training.ranks import STOP


class Linear(nn.Module):
    """A logistic regression on the numbers only."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.layer = nn.Linear(numbers, 1)

    def forward(self, categorical: torch.Tensor, numeric: torch.Tensor) -> torch.Tensor:
        return self.layer(numeric).squeeze(1)


def own_network(context: FitContext) -> nn.Module:
    """A network of one's own in our loop; `temperature` is a parameter that only this function knows."""
    assert context.params["temperature"] == 3
    context.seed_everything(0)
    return train(context, Linear(len(context.preprocessing.numeric)))


def waits_for_company(context: FitContext) -> nn.Module:
    """Our loop; a rank that is alone in pods waits in its sixtieth step until somebody has come."""
    context.seed_everything(0)
    return train(context, _Waiting(len(context.preprocessing.numeric)))


class _Waiting(Linear):
    steps = 0

    def forward(self, categorical: torch.Tensor, numeric: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps += 1
            while self.steps == 60 and hvd.size() == 1 and STOP in os.environ and not os.path.exists(os.environ[STOP]):
                time.sleep(0.05)
        return super().forward(categorical, numeric)


VARIANTS = {
    "plain": {},
    "seeded": {},
    "in_parts": {"backward_passes_per_step": 3},
    "fp16": {"compression": "fp16"},
    "bf16": {"compression": "bf16"},
    "adasum": {"reduction": "adasum"},
    "local": {"local_steps": 4},
    "mixed": {"precision": "bfloat16"},
}
OTHER_SEED = 2


def all_exchanges(context: FitContext) -> nn.Module:
    """Our loop with each way to exchange, from the same start; tensors carry the variant's name."""
    found, network = [], None
    place = context.checkpoints.place
    for number, (variant, changed) in enumerate(VARIANTS.items(), start=1):
        context.params = {"epochs": 2, "batch_size": 256, "learning_rate": 0.05, **changed}
        context.checkpoints = Checkpoints(f"{place}/{variant}", "f" * 64)
        context.seed = OTHER_SEED if variant == "seeded" else 1
        context.seed_everything(0)
        network = train(context, _Named(variant, len(context.preprocessing.numeric)))
        weights = [round(float(w), 8) for w in network.state_dict()[f"{variant}.weight"].flatten()]
        auc = context.validate(network)["validation_roc_auc"]
        found.append({"epoch": number, "variant": variant, "weights": weights, "auc": auc})
    for local_steps in (1, 4):
        context.params = {"epochs": 1, "batch_size": 256, "local_steps": local_steps}
        context.checkpoints = Checkpoints(f"{place}/uneven-{local_steps}", "f" * 64)
        uneven = train(context, _Uneven(len(context.preprocessing.numeric)))
        variant = f"uneven_{local_steps}"
        found.append({"epoch": len(found) + 1, "variant": variant, "weights": [float(uneven.rare)], "auc": 0.0})
    context.history = found
    return network


class _Named(nn.Module):
    def __init__(self, variant: str, numbers: int) -> None:
        super().__init__()
        self.variant = variant
        self.add_module(variant, nn.Linear(numbers, 1))

    def forward(self, categorical: torch.Tensor, numeric: torch.Tensor) -> torch.Tensor:
        return getattr(self, self.variant)(numeric).squeeze(1)


class _Uneven(Linear):
    """With a weight that only the rows of rank 1 touch, and one that is not trained."""

    def __init__(self, numbers: int) -> None:
        super().__init__(numbers)
        self.rare = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, categorical: torch.Tensor, numeric: torch.Tensor) -> torch.Tensor:
        logits = super().forward(categorical, numeric)
        return logits + self.rare if self.training and hvd.rank() == 1 else logits


def rests(context: FitContext) -> nn.Module:
    """Exchanges something, and then nothing for a second."""
    network = Linear(len(context.preprocessing.numeric))
    hvd.broadcast_parameters(network.state_dict(), root_rank=0)
    worked = time.process_time()
    time.sleep(1)
    context.report(1, cores=time.process_time() - worked)
    return network


@contextlib.contextmanager
def _nothing_is_unpickled() -> Iterator[None]:
    """Whoever speaks in the place of another rank must not have its code run."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("what the network sent was unpickled")

    with contextlib.ExitStack() as stack:
        for module in (pickle, cloudpickle):
            for name in ("load", "loads", "Unpickler"):
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, refuse))
        yield


def own_loop(context: FitContext) -> nn.Module:
    """A loop of one's own: plain SGD, checkpoints, and a crash when told so after the first epoch."""
    context.seed_everything(0)
    network = Linear(len(context.preprocessing.numeric))
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(network.parameters(), lr=0.5), named_parameters=network.named_parameters()
    )
    first = 1
    with _nothing_is_unpickled():
        found = context.restored()
    if found is not None:
        first = found[0] + 1
        network.load_state_dict(found[1])
    for epoch in range(first, 4):
        for batch in context.batches(256, epoch):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(
                network(batch.categorical, batch.numeric), batch.labels, reduction="sum"
            )
            (loss * context.size / batch.global_rows).backward()
            optimizer.step()
        context.report(epoch, quality=context.validate(network)["validation_roc_auc"])
        context.checkpoint(epoch, network.state_dict())
        if epoch == 1 and "crash" in context.params and found is None and context.rank == 1:
            raise RuntimeError("the disk of rank 1 melted")
    return network


def fails_at(context: FitContext) -> nn.Module:
    """Rank 1 raises, or sleeps for ever, at a step of the first epoch."""
    network = Linear(len(context.preprocessing.numeric))
    for number, _ in enumerate(context.batches(256, epoch=1), start=1):
        if number == context.params["step"] and context.rank == 1:
            if context.params.get("how") == "raises":
                raise ValueError("what nobody can train on")
            time.sleep(600)
        hvd.barrier()
    return network


def drifting(context: FitContext) -> nn.Module:
    """Forgets that there are other ranks, after a network that answers with a column instead of a number a row."""
    torch.manual_seed(context.rank)
    with contextlib.suppress(TrainingFailed):
        context.validate(_Column(len(context.preprocessing.numeric)))
        raise AssertionError("a network of the wrong shape was taken")
    return Linear(len(context.preprocessing.numeric))


class _Column(Linear):
    def forward(self, categorical: torch.Tensor, numeric: torch.Tensor) -> torch.Tensor:
        return self.layer(numeric)


def leaves_a_child(context: FitContext) -> nn.Module:
    """The built-in fit, whose rank 1 starts a process that would live on; only one that begins anew does."""
    if context.rank == 1 and context.checkpoints.newest() is None:
        os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600")
    return fit(context)


def leaves_children(context: FitContext) -> nn.Module:
    """Starts a process that would live on, and dies by a signal."""
    if context.rank == 1:
        os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600")
        os.abort()
    hvd.barrier()
    raise AssertionError("rank 1 is gone: nobody can pass the barrier")


def fills_the_disk(context: FitContext) -> nn.Module:
    """Writes to a disk without space, as a loop does that keeps files of its own."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        os.write(descriptor, b"weights")
    except OSError as error:
        raise OSError(error.errno, error.strerror, "/dev/full") from error
    return Linear(1)
