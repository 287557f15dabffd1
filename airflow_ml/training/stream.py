"""A rank's way through a split: windows of row groups, shuffled inside, the next one read while one is trained on.

The order of an epoch is decided by (seed, epoch) alone: row groups are permuted and cut into *windows* of at most so
many rows, and the rows of a window are permuted. A step's global batch is a slice of that order. Of each window a rank
reads the row groups that fall to it, and works on those of its rows that lie in the batch. So the same batches are
trained on by one rank or by eight, every rank makes the same number of steps however uneven its share is (it may have
no row in a step), no two ranks read the same, and none reads all.

A split that fits into one window is one permutation of all rows, and is read once.

Memory of a rank: its share of two windows, 4 bytes a value, and 16 bytes a row of one for the order.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from airflow_ml.lifecycle.errors import BadTrainingSet
from airflow_ml.lifecycle.preprocessing import Preprocessing
from airflow_ml.training.data import RowGroup, Rows, assign, read, row_groups

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Batch:
    """A rank's part of a global batch.

    Attributes:
        categorical: int64 [rows, categorical columns].
        numeric: float32 [rows, numeric columns].
        labels: float32 [rows], 0 or 1.
        places: int64 [rows], of each row in the global batch.
        global_rows: Rows of the whole batch over all ranks.
    """

    categorical: torch.Tensor
    numeric: torch.Tensor
    labels: torch.Tensor
    places: torch.Tensor
    global_rows: int

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Window:
    """Row groups whose rows are shuffled together.

    Attributes:
        number: From 1; 0 for one that is the whole split.
        groups: In the order of the split.
        first: Place of its first row in the order of the epoch.
        rows: Of all groups.
    """

    number: int
    groups: tuple[RowGroup, ...]
    first: int
    rows: int

    def order(self, seed: int, epoch: int) -> "Array":
        """Its rows, numbered along its groups, as they are trained on in an epoch."""
        words = [seed, epoch, *([self.number] if self.number else [])]
        return np.random.default_rng(words).permutation(self.rows)

    def places(self, own: Sequence[RowGroup]) -> "Array":
        """Numbers of the rows of some of its groups."""
        firsts = accumulate((group.rows for group in self.groups), initial=0)
        mine = set(own)
        found = [
            np.arange(first, first + group.rows)
            for group, first in zip(self.groups, firsts, strict=False)
            if group in mine
        ]
        return np.concatenate(found) if found else np.empty(0, np.int64)


def windows(groups: Sequence[RowGroup], most: int, seed: int, epoch: int) -> list[Window]:
    """The windows of an epoch.

    Args:
        groups: Of the split.
        most: Rows of a window; one row group may have more.
        seed: Of the training.
        epoch: Each has windows of its own.
    """
    total = sum(group.rows for group in groups)
    if total <= most:
        return [Window(0, tuple(groups), 0, total)]
    members: list[list[RowGroup]] = []
    room = 0
    for number in np.random.default_rng([seed, epoch]).permutation(len(groups)):
        group = groups[number]
        if not members or group.rows > room:
            members.append([])
            room = most
        members[-1].append(group)
        room -= group.rows
    sizes = [sum(group.rows for group in each) for each in members]
    firsts = accumulate(sizes, initial=0)
    return [
        Window(number, tuple(sorted(each, key=lambda g: g.first)), first, rows)
        for number, (each, first, rows) in enumerate(zip(members, firsts, sizes, strict=False), start=1)
    ]


class Split:
    """One rank's part of a split.

    Args:
        folder: Of Parquet files.
        preprocessing: Applied to what is read.
        label: Column of 0 and 1.
        rank: Of this process.
        size: Number of ranks.
        window_rows: Rows of a window, over all ranks.

    Attributes:
        total: Rows of the whole split.

    Raises:
        BadTrainingSet: The split has no rows; reading it, a column is missing, or a row has no label.
    """

    def __init__(
        self, folder: Path, preprocessing: Preprocessing, label: str, rank: int, size: int, window_rows: int
    ) -> None:
        self.groups = row_groups(folder)
        self.total = sum(group.rows for group in self.groups)
        if self.total == 0:
            raise BadTrainingSet("the split has no rows", where=str(folder), remedy="run the stage training_set again")
        self._preprocessing, self._label = preprocessing, label
        self._rank, self._size, self._window_rows = rank, size, window_rows
        self._kept: Rows | None = None

    def steps(self, batch_size: int) -> int:
        """Steps of an epoch: the same on every rank."""
        return -(-self.total // batch_size)

    def own(self, groups: Sequence[RowGroup]) -> list[RowGroup]:
        """Those of some row groups that this rank reads."""
        return assign(groups, self._size)[self._rank]

    def shuffled(self, batch_size: int, seed: int, epoch: int, step: int = 0) -> Iterator[Batch]:
        """This rank's part of each global batch of an epoch.

        Args:
            batch_size: Rows of a global batch; the last one of an epoch may be smaller.
            seed: Of the training.
            epoch: From 1; each has an order of its own.
            step: Steps that are done already: what only they needed is not read.
        """
        at = step * batch_size
        plan = [w for w in windows(self.groups, self._window_rows, seed, epoch) if w.first + w.rows > at]
        if not plan:
            return
        coming = zip(plan, self._read_ahead([self.own(window.groups) for window in plan]), strict=True)
        window, rows = next(coming)
        mine = self._places(window, seed, epoch)
        for start in range(at, self.total, batch_size):
            stop = min(start + batch_size, self.total)
            parts: list[Rows] = []
            places: list[Array] = []
            while at < stop:
                if at == window.first + window.rows:
                    window, rows = next(coming)
                    mine = self._places(window, seed, epoch)
                until = min(stop, window.first + window.rows)
                chosen = mine[at - window.first : until - window.first]
                found = np.flatnonzero(chosen >= 0)
                parts.append(rows.take(torch.from_numpy(chosen[found])))
                places.append(found + at - start)
                at = until
            yield _batch(Rows.joined(parts), torch.from_numpy(np.concatenate(places)), stop - start)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """This rank's rows in the order of the split; the number of batches differs between ranks."""
        pending: list[Rows] = []
        for rows in self._read_ahead(self._portions()):
            pending.append(rows)
            whole = Rows.joined(pending)
            full = len(whole) // batch_size * batch_size
            for start in range(0, full, batch_size):
                yield _batch(whole.take(torch.arange(start, start + batch_size)), torch.arange(batch_size), batch_size)
            pending = [whole.take(torch.arange(full, len(whole)))]
        if pending and len(pending[0]):
            yield _batch(pending[0], torch.arange(len(pending[0])), len(pending[0]))

    def sample(self, rows: int, seed: int) -> torch.Tensor:
        """Numeric inputs of this rank's rows in a sample of the split, or of a window of it, drawn by the seed.

        All ranks together have the same sample, however many they are.
        """
        window = windows(self.groups, self._window_rows, seed, 0)[0]
        own = self.own(window.groups)
        (found,) = self._read_ahead([own])
        drawn = np.isin(window.places(own), window.order(seed, 0)[:rows])
        return found.numeric[torch.from_numpy(np.flatnonzero(drawn))]

    def _places(self, window: Window, seed: int, epoch: int) -> "Array":
        """Where this rank has the rows of a window, in the order of the epoch; -1 for those of others."""
        local = np.full(window.rows, -1, dtype=np.int64)
        places = window.places(self.own(window.groups))
        local[places] = np.arange(len(places))
        return local[window.order(seed, epoch)]

    def _portions(self) -> list[list[RowGroup]]:
        """This rank's row groups of the whole split, in portions that memory holds."""
        own = self.own(self.groups)
        if self.total <= self._window_rows:
            return [own]
        portions: list[list[RowGroup]] = []
        room = 0
        for group in own:
            if not portions or group.rows > room:
                portions.append([])
                room = self._window_rows // self._size
            portions[-1].append(group)
            room -= group.rows
        return portions

    def _read_ahead(self, portions: Sequence[Sequence[RowGroup]]) -> Iterator[Rows]:
        """Each portion; the next one is read by a thread while one is worked on. A whole split is read once."""
        if self.total <= self._window_rows:
            if self._kept is None:
                self._kept = read(portions[0], self._preprocessing, self._label)
            yield self._kept
            return
        with ThreadPoolExecutor(1, thread_name_prefix="reader") as reader:
            coming = None
            for portion in portions:
                found = None if coming is None else coming.result()
                coming = reader.submit(read, portion, self._preprocessing, self._label)
                if found is not None:
                    yield found
                    del found
            if coming is not None:
                yield coming.result()


def _batch(rows: Rows, places: torch.Tensor, global_rows: int) -> Batch:
    return Batch(rows.categorical.long(), rows.numeric, rows.labels, places, global_rows)
