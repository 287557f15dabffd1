"""A rank's shard of a split: its own Parquet row groups, and the global batches that it takes its part of.

The order of rows is one permutation of the *whole* split by (seed, epoch), which every rank computes from row counts
alone. A step's global batch is a slice of it, and each rank works on those of its rows that lie in its own row
groups. So the same batches are trained on by one rank or by eight, every rank makes the same number of steps however
uneven the shards are (a rank may have no row in a step), and no rank reads another's rows.

Memory of a rank: 4 bytes a value of its own shard, and 8 bytes a row of the whole split for the order of an epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from airflow_ml.lifecycle.errors import BadTrainingSet
from airflow_ml.lifecycle.preprocessing import Preprocessing

if TYPE_CHECKING:
    import pyarrow as pa

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RowGroup:
    """One row group of a split.

    Attributes:
        path: The file.
        index: Which of the file's row groups.
        first: Number of its first row in the split.
        rows: How many it has.
    """

    path: Path
    index: int
    first: int
    rows: int


@dataclass(frozen=True)
class Batch:
    """A rank's part of a global batch.

    Attributes:
        categorical: int64 [rows, categorical columns].
        numeric: float32 [rows, numeric columns].
        labels: float32 [rows], 0 or 1.
        global_rows: Rows of the whole batch over all ranks.
    """

    categorical: torch.Tensor
    numeric: torch.Tensor
    labels: torch.Tensor
    global_rows: int

    def __len__(self) -> int:
        return len(self.labels)


def row_groups(folder: Path) -> list[RowGroup]:
    """Row groups of all Parquet files of a split, in the order of file names. Reads footers only."""
    import pyarrow.parquet as pq

    found: list[RowGroup] = []
    first = 0
    for path in sorted(folder.glob("**/*.parquet")):
        metadata = pq.read_metadata(path)
        for index in range(metadata.num_row_groups):
            rows = int(metadata.row_group(index).num_rows)
            found.append(RowGroup(path, index, first, rows))
            first += rows
    return found


def assign(groups: list[RowGroup], size: int) -> list[list[RowGroup]]:
    """Row groups of each rank: the largest first, each to the rank with the fewest rows so far."""
    shares: list[list[RowGroup]] = [[] for _ in range(size)]
    loads = [0] * size
    for group in sorted(groups, key=lambda g: (-g.rows, g.first)):
        rank = min(range(size), key=lambda r: (loads[r], r))
        shares[rank].append(group)
        loads[rank] += group.rows
    return [sorted(share, key=lambda g: g.first) for share in shares]


@dataclass(frozen=True)
class Shard:
    """What one rank holds of a split, ready for the network.

    Attributes:
        categorical: int32 [rows, categorical columns]; half of what int64 would take.
        numeric: float32 [rows, numeric columns].
        labels: float32 [rows].
        rows: int64 [rows], each row's number in the whole split.
        total: Rows of the whole split.
        groups: The row groups that were read, and no other.
    """

    categorical: torch.Tensor
    numeric: torch.Tensor
    labels: torch.Tensor
    rows: "Array"
    total: int
    groups: tuple[RowGroup, ...]

    @classmethod
    def load(cls, folder: Path, preprocessing: Preprocessing, label: str, rank: int, size: int) -> Self:
        """Read this rank's row groups, one at a time.

        Raises:
            BadTrainingSet: The split has no rows, a column is missing, or a row has no label.
        """
        groups = row_groups(folder)
        total = sum(group.rows for group in groups)
        if total == 0:
            raise BadTrainingSet("the split has no rows", where=str(folder), remedy="run the stage training_set again")
        own = assign(groups, size)[rank]
        parts = [_read(group, preprocessing, label) for group in own]
        width = (len(preprocessing.categorical), len(preprocessing.numeric))
        parts = parts or [
            (np.empty((0, width[0]), np.int32), np.empty((0, width[1]), np.float32), np.empty(0, np.float32))
        ]
        categorical, numeric, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        rows = [np.arange(group.first, group.first + group.rows) for group in own]
        return cls(
            torch.from_numpy(categorical),
            torch.from_numpy(numeric),
            torch.from_numpy(labels),
            np.concatenate(rows) if rows else np.empty(0, np.int64),
            total,
            tuple(own),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def steps(self, batch_size: int) -> int:
        """Steps of an epoch: the same on every rank."""
        return -(-self.total // batch_size)

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """This rank's part of each global batch of an epoch.

        Args:
            batch_size: Rows of a global batch; the last one of an epoch may be smaller.
            seed: Of the training.
            epoch: From 1; each has an order of its own.
        """
        order = np.random.default_rng([seed, epoch]).permutation(self.total)
        local = np.full(self.total, -1, dtype=np.int64)
        local[self.rows] = np.arange(len(self.rows))
        mine = local[order]
        for start in range(0, self.total, batch_size):
            chosen = mine[start : start + batch_size]
            yield self._take(torch.from_numpy(chosen[chosen >= 0]), len(chosen))

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """This rank's rows in the order of the split; the number of batches differs between ranks."""
        for start in range(0, len(self), batch_size):
            index = torch.arange(start, min(start + batch_size, len(self)))
            yield self._take(index, len(index))

    def _take(self, index: torch.Tensor, global_rows: int) -> Batch:
        return Batch(self.categorical[index].long(), self.numeric[index], self.labels[index], global_rows)


def _read(group: RowGroup, preprocessing: Preprocessing, label: str) -> "tuple[Array, Array, Array]":
    import pyarrow.parquet as pq

    with pq.ParquetFile(group.path) as file:
        names = [*preprocessing.columns, label]
        missing = [name for name in names if name not in file.schema_arrow.names]
        if missing:
            raise BadTrainingSet(
                f"columns missing: {', '.join(missing)}",
                where=str(group.path),
                remedy="run the stage training_set again",
            )
        table = file.read_row_group(group.index, columns=names)
    if table.column(label).null_count:
        raise BadTrainingSet(
            f"column {label!r} has nulls", where=str(group.path), remedy="run the stage training_set again"
        )
    categorical, numeric = preprocessing.apply({name: to_numpy(table.column(name)) for name in preprocessing.columns})
    return categorical.astype(np.int32), numeric, to_numpy(table.column(label)).astype(np.float32)


def to_numpy(column: "pa.ChunkedArray") -> "Array":
    """An Arrow column as numpy: text as objects, a null number as NaN."""
    return np.asarray(column.to_numpy())
