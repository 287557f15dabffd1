"""The built-in network: embeddings and spread-out numbers into a multilayer perceptron, made of plain ATen operators.

A perceptron on bare numbers is smooth, and loses to trees on tables, where the effect of a number turns at
thresholds. Spreading each number over its quantile bins (each bin tells how far the number has passed through it)
gives the first layer those thresholds.

Source: https://arxiv.org/abs/2203.05556 (piecewise linear encoding of numeric features)
"""

import math
from collections.abc import Sequence

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
            layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
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
