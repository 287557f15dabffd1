"""One Delta table partitioned by ``ds``: files are staged under an attempt, and partitions appear by one atomic commit.

Every committed partition carries a *fence*: a Delta app transaction (``ds=2013-01-01``, leading bits of the fingerprint
of what the partition was made from). So a table itself says whether a partition is current, even when the process that
committed it died before it could write a result; and two writers of the same partition collide in the log, where
exactly one wins.

Any Delta reader can query the tables. Engines write Parquet into ``staged-<attempt>/ds=<date>/`` below the table and
never touch the log. Files of an attempt that died are not referenced by any version; Delta's own ``vacuum`` removes
them.

A partition is current when its fence says so *and* its files are there: one that lost a file is built again.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ml.lake import transactions
from airflow_ml.lake.attempts import PARTITION, Attempt, begin
from airflow_ml.lifecycle.errors import BaseError, CommitConflict, MissingPartition
from airflow_ml.lifecycle.fingerprints import fence
from airflow_ml.lifecycle.windows import Window

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads
    from deltalake import DeltaTable

_ATTEMPTS = 20


@dataclass(frozen=True)
class Snapshot:
    """A pinned version of a table.

    Attributes:
        version: Delta version.
        rows: Rows of each partition that has files.
    """

    version: int
    rows: Mapping[date, int] = field(default_factory=dict)


class LakeTable:
    """A table below ``<base>/lake/<model>/``.

    Args:
        path: The table's folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.name

    # reading

    def exists(self) -> bool:
        """Whether a version was ever committed."""
        return (self.path / "_delta_log").is_dir() and any((self.path / "_delta_log").glob("*.json"))

    def fences(self, days: Iterable[date], version: int | None = None) -> dict[date, int | None]:
        """The fence of each day's partition; None where it was never committed.

        A partition that was committed without rows has a fence and no files.
        """
        if not self.exists():
            return dict.fromkeys(days)
        return transactions.fences(self._load(version), days)

    def stale(self, wanted: Mapping[date, str]) -> list[date]:
        """The days whose partition was not made from what ``wanted`` says (fingerprints by day), or lost a file."""
        return sorted(self._stale(self._load(None), wanted)) if self.exists() else sorted(wanted)

    def missing(self, window: Iterable[date]) -> list[date]:
        """The days that were never committed."""
        return sorted(day for day, found in self.fences(window).items() if found is None)

    def require(self, window: Iterable[date], remedy: str) -> None:
        """Raise `MissingPartition` unless every day was committed."""
        missing = self.missing(window)
        if missing:
            shown = ", ".join(str(day) for day in missing[:5]) + (
                f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            )
            raise MissingPartition(f"not committed: {shown}", where=f"table {self.path}", remedy=remedy)

    def snapshot(self, version: int | None = None) -> Snapshot:
        """Version and rows by partition, of the newest version or the one named."""
        table = self._load(version)
        rows: dict[date, int] = {}
        import pyarrow as pa

        actions = (
            pa.table(table.get_add_actions(flatten=True)).select([f"partition.{PARTITION}", "num_records"]).to_pylist()
        )
        for action in actions:
            day = action[f"partition.{PARTITION}"]
            rows[day] = rows.get(day, 0) + int(action["num_records"] or 0)
        return Snapshot(table.version(), dict(sorted(rows.items())))

    def dataset(self, version: int | None = None) -> "pads.Dataset":
        """The table as a pyarrow dataset: scans stream, filters on ``ds`` prune files."""
        return self._load(version).to_pyarrow_dataset()

    def read(
        self,
        window: Window | None = None,
        columns: Sequence[str] | None = None,
        version: int | None = None,
    ) -> "pa.Table":
        """Rows of a window in partition order.

        Args:
            window: Days to read; None reads all.
            columns: Columns to read; None reads all, ``ds`` included.
            version: A pinned version; None is the newest.
        """
        return self.dataset(version).to_table(
            columns=None if columns is None else list(columns), filter=None if window is None else between(window)
        )

    def files(self, window: Window, version: int | None = None) -> list[str]:
        """Absolute Parquet paths of a window, in partition order: what an engine such as Spark reads.

        Raises:
            BaseError: One of them is gone.
        """
        found = sorted((day, path) for day, path in self._files(self._load(version)) if day in window)
        for _, path in found:
            if not path.exists():
                raise gone(path)
        return [str(path) for _, path in found]

    # writing

    def attempt(self) -> Attempt:
        """A fresh folder to stage files in."""
        return begin(self.path)

    def commit(
        self,
        attempt: Attempt,
        fingerprints: Mapping[date, str],
        schema: "pa.Schema",
        expected: Mapping[date, int | None] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Replace exactly the named partitions by the attempt's files, in one atomic commit.

        Two writers of the same partitions: one commits; the other finds the fences it wanted, discards its files and
        returns the winner's version. Writers of other partitions never disturb each other.

        Args:
            attempt: Staged files; a day without files becomes an empty partition.
            fingerprints: Day to fingerprint of what it was made from.
            schema: Of the staged files, without ``ds``.
            expected: Fences when the inputs were read (`fences`): a partition that has another one by now was committed
                by somebody who read other inputs, and is not overwritten. None expects what is there when the commit
                begins.
            metadata: Shown in the table's history.

        Returns:
            The version in which all named partitions are as wanted.

        Raises:
            CommitConflict: Another writer committed one of the partitions from other inputs since this began.
            BaseError: The schema cannot hold the new files.
        """
        from deltalake.exceptions import CommitFailedError, DeltaError

        extra = sorted({day for day, _ in attempt.files()} - set(fingerprints))
        if extra:
            raise CommitConflict(f"files staged for days that are not committed: {extra}", where=str(self.path))
        before = self.fences(fingerprints) if expected is None else {day: expected[day] for day in fingerprints}
        for number in range(_ATTEMPTS):
            try:
                if not self.exists():
                    transactions.create(self.path, schema)
                # One handle for looking and committing: a commit that lands in between makes ours fail, and we look
                # again.
                table = self._load(None)
                if not self._stale(table, fingerprints):
                    attempt.discard()
                    return table.version()
                now = transactions.fences(table, fingerprints)
                wanted = {day: fence(print_) for day, print_ in fingerprints.items()}
                # What another writer made from the same inputs is no conflict: overlapping windows share days.
                foreign = [day for day in wanted if now[day] not in (before[day], wanted[day])]
                if foreign:
                    raise CommitConflict(
                        "another writer committed this partition from other inputs meanwhile",
                        where=f"table {self.path}, {', '.join(map(str, foreign))}",
                        remedy="run the stage again; it then starts from the newer inputs",
                    )
                transactions.overwrite(table, self.path, attempt, fingerprints, schema, metadata or {})
                return self._load(None).version()
            except CommitFailedError:
                time.sleep(0.05 * (number + 1))
            except (DeltaError, OSError) as error:
                raise BaseError(
                    f"cannot commit: {error}",
                    where=str(self.path),
                    remedy="free space or make the base writable, then retry",
                ) from error
        raise CommitConflict(f"no commit in {_ATTEMPTS} tries", where=str(self.path), remedy="run the stage again")

    def _stale(self, table: "DeltaTable", wanted: Mapping[date, str]) -> set[date]:
        found = transactions.fences(table, wanted)
        lost = {day for day, path in self._files(table) if day in wanted and not path.exists()}
        return {day for day, print_ in wanted.items() if found[day] != fence(print_)} | lost

    def _files(self, table: "DeltaTable") -> list[tuple[date, Path]]:
        import pyarrow as pa

        actions = pa.table(table.get_add_actions(flatten=True)).select(["path", f"partition.{PARTITION}"]).to_pylist()
        return [(action[f"partition.{PARTITION}"], self.path / action["path"]) for action in actions]

    def _load(self, version: int | None) -> "DeltaTable":
        from deltalake import DeltaTable

        if not self.exists():
            raise MissingPartition(
                "the table does not exist yet", where=str(self.path), remedy="run the stage that writes it"
            )
        return DeltaTable(str(self.path), version=version)


def between(window: Window) -> "pads.Expression":
    """A filter on ``ds`` for a window."""
    import pyarrow.dataset as pads

    column = pads.field(PARTITION)
    return (column >= window.start) & (column <= window.end)


def gone(path: Path) -> BaseError:
    """The error for a committed file that somebody removed."""
    table = next((folder for folder in path.parents if (folder / "_delta_log").is_dir()), path.parent)
    return BaseError(
        "a committed file is gone",
        where=str(path),
        remedy=f"restore it, or run the stage that writes the table {table.name!r} again for its partition",
    )
