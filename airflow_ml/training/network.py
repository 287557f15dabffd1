"""The built-in network: embeddings and spread-out numbers into a multilayer perceptron, made of plain ATen operators.

A perceptron on bare numbers is smooth, and loses to trees on tables, where the effect of a number turns at
thresholds. Spreading each number over its quantile bins (each bin tells how far the number has passed through it)
gives the first layer those thresholds.

Source: https://arxiv.org/abs/2203.05556 (piecewise linear encoding of numeric features)
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


class QuantileBins(nn.Module):
    """Spread numbers over bins: 0 below a bin, 1 above it, linear inside.

    Args:
        edges: [numbers, bins + 1], rising. Bins without width (a number of few values) stay 0.
    """

    left: Tensor
    factor: Tensor

    def __init__(self, edges: Tensor) -> None:
        super().__init__()
        # Contiguous: Horovod broadcasts buffers as they lie in memory.
        width = (edges[:, 1:] - edges[:, :-1]).contiguous()
        self.register_buffer("left", edges[:, :-1].clone(memory_format=torch.contiguous_format))
        self.register_buffer("factor", torch.where(width > 1e-6, 1 / width.clamp_min(1e-6), torch.zeros_like(width)))

    def forward(self, numeric: Tensor) -> Tensor:
        """[batch, numbers] → [batch, numbers · bins]."""
        return ((numeric.unsqueeze(2) - self.left) * self.factor).clamp(0.0, 1.0).flatten(1)


class Dropout(nn.Module):
    """Leaves units of a row out in training, by the seed, the step and the row's place in the batch.

    So a step is the same on one rank and on eight, and a training whose ranks became fewer goes on as it would have.
    Our loop draws before each forward pass; without that, this is torch's own.

    Args:
        share: Of units that are left out.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self._drawn: tuple[int, Tensor] | None = None

    def draw(self, words: Sequence[int], places: Tensor) -> None:
        """Choose for the next forward pass.

        Args:
            words: Seed of the step and the layer.
            places: int64 [rows], of each row in the global batch.
        """
        self._drawn = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 2), places

    def forward(self, units: Tensor) -> Tensor:
        """[rows, units] → the same, some of them 0, and the others larger in turn."""
        if not self.training or not self.share:
            return units
        if self._drawn is None:
            return nn.functional.dropout(units, self.share)
        (word, places), self._drawn = self._drawn, None
        # Products of random odd numbers, one a row and one a unit: evenly spread over int64, whose sums wrap around.
        rows = _mixed(places * 2 + word) | 1
        columns = _mixed(torch.arange(units.shape[1], device=units.device) * 2 + word + 1) | 1
        kept = rows.unsqueeze(1) * columns >= int((self.share - 0.5) * 2**64)
        return units * (kept / (1 - self.share)).to(units.dtype)


def _mixed(numbers: Tensor) -> Tensor:
    """Numbers without a pattern, from numbers with one.

    Source: https://prng.di.unimi.it/splitmix64.c
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> shift)) * (factor - 2**64)
    return numbers ^ (numbers >> 31)


class TabularNetwork(nn.Module):
    """Logit of the positive class from categories and numbers.

    Args:
        cardinalities: Rows of each category's embedding, unknown (index 0) included.
        numbers: Numeric columns.
        hidden: Widths of the hidden layers.
        embedding: Widest embedding.
        dropout: Share of hidden units left out in training.
        edges: [numbers, bins + 1] for `QuantileBins`, or None for bare numbers.
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        numbers: int,
        hidden: Sequence[int],
        embedding: int,
        dropout: float,
        edges: Tensor | None = None,
    ) -> None:
        super().__init__()
        tables = [nn.Embedding(rows, embedding_width(rows, embedding)) for rows in cardinalities]
        for table in tables:
            nn.init.normal_(table.weight, std=0.1)
        self.embeddings = nn.ModuleList(tables)
        self.bins = None if edges is None or edges.shape[1] < 2 or numbers == 0 else QuantileBins(edges)
        width = sum(table.embedding_dim for table in tables) + numbers
        if self.bins is not None:
            width += self.bins.left.numel()
        layers: list[nn.Module] = []
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU(), Dropout(dropout)]
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, categorical: Tensor, numeric: Tensor) -> Tensor:
        """Logits.

        Args:
            categorical: int64 [batch, categorical columns].
            numeric: float32 [batch, numbers], scaled.

        Returns:
            float32 [batch].
        """
        parts = [table(categorical[:, index]) for index, table in enumerate(self.embeddings)]
        parts.append(numeric)
        if self.bins is not None:
            parts.append(self.bins(numeric))
        logits: Tensor = self.layers(torch.cat(parts, dim=1)).squeeze(1)
        return logits


def embedding_width(rows: int, widest: int) -> int:
    """Width of an embedding: grows with the square root of the vocabulary, from 2 up to ``widest``."""
    return min(widest, max(2, round(1.6 * math.sqrt(rows))))
