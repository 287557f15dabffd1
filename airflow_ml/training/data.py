"""The row groups of a split: who reads which, and what one becomes when it is read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from airflow_ml.lifecycle.errors import BadTrainingSet
from airflow_ml.lifecycle.preprocessing import Preprocessing, Vocabulary

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
class Rows:
    """Rows in memory, ready for the network.

    Attributes:
        categorical: int32 [rows, categorical columns]; half of what int64 would take.
        numeric: float32 [rows, numeric columns].
        labels: float32 [rows].
    """

    categorical: torch.Tensor
    numeric: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """One after the other."""
        listed = list(parts)
        if len(listed) == 1:
            return listed[0]
        names = ("categorical", "numeric", "labels")
        return cls(*(torch.cat([getattr(part, name) for part in listed]) for name in names))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: torch.Tensor) -> Self:
        """Some of them, in this order."""
        return type(self)(self.categorical[index], self.numeric[index], self.labels[index])


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


def assign(groups: Sequence[RowGroup], size: int) -> list[list[RowGroup]]:
    """Row groups of each rank: the largest first, each to the rank with the fewest rows so far."""
    shares: list[list[RowGroup]] = [[] for _ in range(size)]
    loads = [0] * size
    for group in sorted(groups, key=lambda g: (-g.rows, g.first)):
        rank = min(range(size), key=lambda r: (loads[r], r))
        shares[rank].append(group)
        loads[rank] += group.rows
    return [sorted(share, key=lambda g: g.first) for share in shares]


def read(groups: Iterable[RowGroup], preprocessing: Preprocessing, label: str) -> Rows:
    """Read row groups, one at a time.

    Raises:
        BadTrainingSet: A column is missing, or a row has no label.
    """
    width = (len(preprocessing.categorical), len(preprocessing.numeric))
    none = (np.empty((0, width[0]), np.int32), np.empty((0, width[1]), np.float32), np.empty(0, np.float32))
    parts = [_read(group, preprocessing, label) for group in groups] or [none]
    categorical, numeric, labels = (
        torch.from_numpy(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
        for arrays in zip(*parts, strict=True)
    )
    return Rows(categorical, numeric, labels)


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
    categorical = np.empty((group.rows, len(preprocessing.categorical)), np.int32)
    for index, vocabulary in enumerate(preprocessing.categorical):
        categorical[:, index] = looked_up(table.column(vocabulary.name), vocabulary)
    numeric = np.empty((group.rows, len(preprocessing.numeric)), np.float32)
    for index, scaling in enumerate(preprocessing.numeric):
        numeric[:, index] = scaling.apply(to_numpy(table.column(scaling.name)))
    return categorical, numeric, to_numpy(table.column(label)).astype(np.float32)


def looked_up(column: "pa.ChunkedArray", vocabulary: Vocabulary) -> "Array":
    """What `Vocabulary.apply` answers; by Arrow where it can, which leaves Python to the thread that trains."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if (vocabulary.dtype == "string") != text or not (text or pa.types.is_signed_integer(column.type)):
        return vocabulary.apply(to_numpy(column))
    tokens = pa.array([int(t) for t in vocabulary.tokens] if not text else list(vocabulary.tokens), column.type)
    found = pc.index_in(column, value_set=tokens, skip_nulls=True)
    return to_numpy(pc.add(pc.fill_null(found, -1), 1))


def to_numpy(column: "pa.ChunkedArray") -> "Array":
    """An Arrow column as numpy: text as objects, a null number as NaN."""
    return np.asarray(column.to_numpy())
