"""How the ranks of the built-in loop come to equal weights: what they exchange, when, and in what form.

*Average* (Horovod's own way): gradients are averaged in each step, so a step is one of the whole global batch.
*Adasum*: gradients of the ranks' own parts are added where they point into different directions, and averaged where
they point into the same one; the step then need not be made smaller as ranks are added. *Local steps*: each rank makes
some steps by itself, and then weights and moments are averaged.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import horovod.torch as hvd
import torch
from torch import Tensor, nn

from airflow_ml.training.params import Params


class Exchange(ABC):
    """What a step of the loop does with gradients.

    Attributes:
        optimizer: With the state that a checkpoint keeps; the same on every rank after `settle`.
    """

    optimizer: torch.optim.Optimizer

    def scale(self, rows: int, global_rows: int) -> float:
        """What the *sum* of losses over this rank's rows of a global batch is multiplied by."""
        # The sum of all ranks is divided by their number: this makes the step the mean over the global batch.
        return float(hvd.size()) / global_rows

    @abstractmethod
    def step(self) -> None:
        """Use the gradients of one global batch."""

    def settle(self) -> None:
        """From here on, weights and moments are the same on every rank. Before a checkpoint, and after an epoch."""
        return


def exchange_of(network: nn.Module, params: Params, grouped: bool) -> Exchange:
    """What the parameters say.

    Args:
        network: Equal on every rank.
        params: Of the training.
        grouped: Reduce all gradients together, in one message and in one order, so that sums do not depend on timing;
            otherwise Horovod fuses those that are ready.
    """
    plain = optimizer_of(network, params)
    if params.local_steps > 1:
        return _Local(plain, params.local_steps)
    if params.reduction == "adasum":
        return _Adasum(plain)
    if params.compression == "bf16":
        return _Bfloat16(plain)
    if grouped:
        return _Together(plain, params)
    return _Fused(network, plain, params)


def optimizer_of(network: nn.Module, params: Params) -> torch.optim.Optimizer:
    """AdamW that decays matrices, but neither embeddings nor biases.

    Args:
        network: Whose weights it changes.
        params: Of the training.
    """
    matrices = [p for name, p in network.named_parameters() if p.ndim > 1 and "embedding" not in name]
    others = [p for name, p in network.named_parameters() if not (p.ndim > 1 and "embedding" not in name)]
    groups = [{"params": matrices, "weight_decay": params.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=params.learning_rate, fused=True)


def _compression(params: Params) -> type[hvd.compression.Compressor]:
    known: dict[str, type[hvd.compression.Compressor]] = {"none": hvd.Compression.none, "fp16": hvd.Compression.fp16}
    return known[params.compression]


class _Fused(Exchange):
    """Horovod's own optimizer, which sends gradients while the backward pass still makes others."""

    def __init__(self, network: nn.Module, plain: torch.optim.Optimizer, params: Params) -> None:
        self.optimizer = hvd.DistributedOptimizer(
            plain,
            named_parameters=network.named_parameters(),
            compression=_compression(params),
            backward_passes_per_step=params.backward_passes_per_step,
        )

    def step(self) -> None:
        self.optimizer.step()


class _Flat(Exchange):
    """Gradients as one long vector, which is exchanged when all of them are there; a rank alone sends nothing."""

    def __init__(self, plain: torch.optim.Optimizer) -> None:
        self.optimizer = plain

    def step(self) -> None:
        weights = _with_gradients(self.optimizer)
        if hvd.size() > 1:
            sizes = [weight.numel() for weight in weights]
            flat = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
            reduced = self.reduce(flat, sizes)
            for weight, part in zip(weights, torch.split(reduced, sizes), strict=True):
                weight.grad = part.view_as(weight).to(weight.dtype)
        self.optimizer.step()

    @abstractmethod
    def reduce(self, flat: Tensor, sizes: list[int]) -> Tensor:
        """What all ranks make of a vector of each of them: the same everywhere."""


class _Together(_Flat):
    """Averaged by Horovod: one message a step, on which the ranks agree once, and one order of its sums."""

    def __init__(self, plain: torch.optim.Optimizer, params: Params) -> None:
        super().__init__(plain)
        self._compression = _compression(params)
        self._name = "gradients" if params.compression == "none" else f"gradients.{params.compression}"

    def reduce(self, flat: Tensor, sizes: list[int]) -> Tensor:
        sent, how = self._compression.compress(flat)
        mean: Tensor = self._compression.decompress(hvd.allreduce_(sent, op=hvd.Average, name=self._name), how)
        return mean


class _Adasum(_Flat):
    """Horovod's own needs MPI, which our ranks do without: each of them gathers all gradients, and adds them."""

    def scale(self, rows: int, global_rows: int) -> float:
        return 1.0 / max(1, rows)

    def reduce(self, flat: Tensor, sizes: list[int]) -> Tensor:
        gathered = hvd.allgather(flat.unsqueeze(0), name="adasum")
        return torch.cat([adasum(list(part)) for part in torch.split(gathered, sizes, dim=1)])


class _Bfloat16(_Flat):
    """Horovod knows no bfloat16: it carries the bits, and each rank adds its share of the vector, in float32."""

    def reduce(self, flat: Tensor, sizes: list[int]) -> Tensor:
        ranks = hvd.size()
        padded = nn.functional.pad(flat, (0, -len(flat) % ranks))
        sent = padded.to(torch.bfloat16).view(torch.int16)
        mine = hvd.alltoall(sent, name="bf16.parts").view(torch.bfloat16).view(ranks, -1)
        mean = mine.float().mean(dim=0).to(torch.bfloat16)
        whole: Tensor = hvd.allgather(mean.view(torch.int16), name="bf16.mean").view(torch.bfloat16)
        return whole.float()[: len(flat)]


class _Local(Exchange):
    def __init__(self, plain: torch.optim.Optimizer, steps: int) -> None:
        self.optimizer = plain
        self._steps = steps
        self._since = 0

    def scale(self, rows: int, global_rows: int) -> float:
        return 1.0 / max(1, rows)

    def step(self) -> None:
        _with_gradients(self.optimizer)
        self.optimizer.step()
        self._since += 1
        if self._since == self._steps:
            self.settle()

    def settle(self) -> None:
        if not self._since:
            return
        self._since = 0
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        state = self.optimizer.state
        moments = [state[p][name] for p in weights for name in ("exp_avg", "exp_avg_sq") if name in state[p]]
        tensors = [tensor.detach() for tensor in (*weights, *moments)]
        flat = hvd.allreduce(torch.cat([tensor.flatten() for tensor in tensors]), op=hvd.Average, name="local")
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def _with_gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The weights that are trained; those that this rank's rows did not touch get a gradient of zeros, as on others."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.requires_grad]
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    return weights


def adasum(gradients: Sequence[Tensor]) -> Tensor:
    """Gradients added pairwise, less what two of them have in common.

    Source: https://arxiv.org/abs/2006.02924 (Adasum, equation 7; the tree of figure 2)
    """
    level = list(gradients)
    while len(level) > 1:
        pairs = [_pair(one, other) for one, other in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def _pair(one: Tensor, other: Tensor) -> Tensor:
    common = torch.dot(one.double(), other.double())

    def share(of: Tensor) -> float:
        length = torch.dot(of.double(), of.double())
        return float(1 - common / (2 * length)) if length > 0 else 1.0

    return share(one) * one + share(other) * other
