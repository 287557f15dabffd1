"""What users could declare as `fit`."""

import os

import horovod.torch as hvd
import torch
from torch import nn

from airflow_ml.training.context import FitContext
from airflow_ml.training.loop import train


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


def own_loop(context: FitContext) -> nn.Module:
    """A loop of one's own: plain SGD, checkpoints, and a crash when told so after the first epoch."""
    context.seed_everything(0)
    network = Linear(len(context.preprocessing.numeric))
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(network.parameters(), lr=0.5), named_parameters=network.named_parameters()
    )
    first = 1
    if (found := context.restored()) is not None:
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


def drifting(context: FitContext) -> nn.Module:
    """Forgets that there are other ranks."""
    torch.manual_seed(context.rank)
    return Linear(len(context.preprocessing.numeric))


def wrong_shape(context: FitContext) -> nn.Module:
    """Answers with a column instead of a number a row."""
    context.seed_everything(0)
    return _Column(len(context.preprocessing.numeric))


class _Column(Linear):
    def forward(self, categorical: torch.Tensor, numeric: torch.Tensor) -> torch.Tensor:
        return self.layer(numeric)


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
