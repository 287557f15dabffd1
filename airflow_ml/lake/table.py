"""One Delta table partitioned by ``ds``: files are staged under an attempt, and partitions appear by one atomic commit.

Every committed partition carries a *fence*: a Delta app transaction (``ds=2013-01-01``, leading bits of the fingerprint
of what the partition was made from). So a table itself says whether a partition is current, even when the process that
committed it died before it could write a result; and two writers of the same partition collide in the log, where
exactly one wins.

Any Delta reader can query the tables. Engines write Parquet into ``staged-<attempt>/ds=<date>/`` below the table and
never touch the log. Files of an attempt that died are not referenced by any version; Delta's own ``vacuum`` removes
them.

Source: https://github.com/delta-io/delta/blob/master/PROTOCOL.md (add actions, transaction identifiers)
"""

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ml.lake.schemas import evolve
from airflow_ml.lifecycle.errors import BaseError, CommitConflict, MissingPartition
from airflow_ml.lifecycle.fingerprints import fence
from airflow_ml.lifecycle.windows import Window

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads
    from deltalake import DeltaTable

PARTITION = "ds"
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


@dataclass(frozen=True)
class Attempt:
    """A folder of files that belong to no version yet.

    Attributes:
        id: Unique to one execution.
        folder: Where an engine writes ``ds=<date>/*.parquet``.
    """

    id: str
    folder: Path

    def partition(self, day: date) -> Path:
        """Folder of one partition's files, created."""
        path = self.folder / f"{PARTITION}={day.isoformat()}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def files(self) -> Iterator[tuple[date, Path]]:
        """Parquet files staged so far, in a stable order."""
        for path in sorted(self.folder.glob(f"{PARTITION}=*/*.parquet")):
            yield date.fromisoformat(path.parent.name.removeprefix(f"{PARTITION}=")), path

    def discard(self) -> None:
        """Remove the files; for an attempt that lost, or that nothing will commit."""
        shutil.rmtree(self.folder, ignore_errors=True)


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
        return _fences(self._load(version), days)

    def stale(self, wanted: Mapping[date, str]) -> list[date]:
        """The days whose partition was not made from what ``wanted`` says (fingerprints by day), oldest first."""
        found = self.fences(wanted)
        return sorted(day for day, print_ in wanted.items() if found[day] != fence(print_))

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
        """Absolute Parquet paths of a window, in partition order: what an engine such as Spark reads."""
        import pyarrow as pa

        table = self._load(version)
        actions = pa.table(table.get_add_actions(flatten=True)).select(["path", f"partition.{PARTITION}"]).to_pylist()
        wanted = [(a[f"partition.{PARTITION}"], str(self.path / a["path"])) for a in actions]
        return [path for day, path in sorted(wanted) if day in window]

    # writing

    def attempt(self) -> Attempt:
        """A fresh folder to stage files in."""
        id_ = uuid.uuid4().hex[:16]
        folder = self.path / f"staged-{id_}"
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise BaseError(
                f"cannot write: {error.strerror}",
                where=str(self.path),
                remedy="free space or make the base writable, then retry",
            ) from error
        return Attempt(id_, folder)

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
                    self.create(schema)
                # One handle for looking and committing: a commit that lands in between makes ours fail, and we look
                # again.
                table = self._load(None)
                now = _fences(table, fingerprints)
                wanted = {day: fence(print_) for day, print_ in fingerprints.items()}
                if now == wanted:
                    attempt.discard()
                    return table.version()
                # What another writer made from the same inputs is no conflict: overlapping windows share days.
                foreign = [day for day in wanted if now[day] not in (before[day], wanted[day])]
                if foreign:
                    raise CommitConflict(
                        "another writer committed this partition from other inputs meanwhile",
                        where=f"table {self.path}, {', '.join(map(str, foreign))}",
                        remedy="run the stage again; it then starts from the newer inputs",
                    )
                return self._write(table, attempt, fingerprints, schema, metadata or {})
            except CommitFailedError:
                time.sleep(0.05 * (number + 1))
            except (DeltaError, OSError) as error:
                raise BaseError(
                    f"cannot commit: {error}",
                    where=str(self.path),
                    remedy="free space or make the base writable, then retry",
                ) from error
        raise CommitConflict(f"no commit in {_ATTEMPTS} tries", where=str(self.path), remedy="run the stage again")

    def _write(
        self,
        table: "DeltaTable",
        attempt: Attempt,
        fingerprints: Mapping[date, str],
        schema: "pa.Schema",
        metadata: Mapping[str, str],
    ) -> int:
        from deltalake.transaction import (
            AddAction,
            CommitProperties,
            PostCommitHookProperties,
            RemoveAction,
            Transaction,
        )

        evolve(table, schema, self.path)
        actions: list[AddAction | RemoveAction] = [
            AddAction(
                path=str(path.relative_to(self.path)),
                size=path.stat().st_size,
                partition_values={PARTITION: day.isoformat()},
                modification_time=int(path.stat().st_mtime * 1000),
                data_change=True,
                stats=json.dumps({"numRecords": _rows(path)}),
            )
            for day, path in attempt.files()
        ]
        now_ms = int(time.time() * 1000)
        table.create_write_transaction(
            actions,
            mode="overwrite",
            schema=table.schema(),
            partition_by=[PARTITION],
            partition_filters=[(PARTITION, "in", [day.isoformat() for day in sorted(fingerprints)])],
            commit_properties=CommitProperties(
                custom_metadata=dict(metadata),
                # No silent retry: a concurrent commit must send us back to look at the fences.
                max_commit_retries=0,
                app_transactions=[
                    Transaction(_app_id(day), fence(print_), now_ms) for day, print_ in sorted(fingerprints.items())
                ],
            ),
            # Old log entries are the lineage of pinned training sets: never cleaned up behind a user's back.
            post_commithook_properties=PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False),
        )
        return self._load(None).version()

    def create(self, schema: "pa.Schema") -> None:
        """Make the table, without rows, if it is not there."""
        import pyarrow as pa
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        # `ignore` still races in the log: losing that race means that the table is there.
        with contextlib.suppress(DeltaError):
            DeltaTable.create(
                str(self.path), schema.append(pa.field(PARTITION, pa.date32())), mode="ignore", partition_by=[PARTITION]
            )

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


def _fences(table: "DeltaTable", days: Iterable[date]) -> dict[date, int | None]:
    return {day: table.transaction_version(_app_id(day)) for day in days}


def _app_id(day: date) -> str:
    return f"{PARTITION}={day.isoformat()}"


def _rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)
