"""Landing files of a source: where they are, what identifies them, and how a window of them becomes partitions.

A window is refused or taken as a whole: every bad file is named in one error, and nothing is written for the good ones.
"""

import contextlib
import glob
import gzip
import hashlib
import json
import os
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.lake import Attempt
from airflow_ml.lifecycle.errors import BadFile
from airflow_ml.spec.source import Files
from airflow_ml.stages._parsing import Parsed, parse
from airflow_ml.stages._problems import Problem, Refused
from airflow_ml.stages.base import PartitionStage
from airflow_ml.stages.context import StageContext

if TYPE_CHECKING:
    import pyarrow as pa

NEW_COLUMNS = b"airflow_ml.new_columns"
"""Parquet metadata of a partition: columns of the file that are not declared, as JSON."""

_SHOWN = 20


class LandingStage(PartitionStage):
    """A stage that turns each day's landing file into a partition."""

    components = ("pyarrow", "deltalake")

    @abstractmethod
    def source(self, ctx: StageContext) -> Files:
        """The files that are read."""

    def event_time(self, ctx: StageContext) -> str | None:
        """Column of the source that says when the event is, which has to be on the file's day; None for no such."""
        return None

    def finish(self, ctx: StageContext, table: "pa.Table") -> "pa.Table":
        """The partition that is made from the file's rows."""
        return table

    def inputs(self, ctx: StageContext) -> dict[date, Any]:
        """Content of each file, and how it is read."""
        landing = self._landing(ctx)
        return {day: [landing.reading, landing.sha256(day)] for day in ctx.window}

    def build(self, ctx: StageContext, days: Sequence[date], attempt: Attempt) -> "tuple[pa.Schema, dict[str, Any]]":
        """Parse and stage one file after the other, so that memory does not grow with the window."""
        import pyarrow.parquet as pq

        landing = self._landing(ctx)
        new: set[str] = set()
        read: dict[date, Any] = {}
        for day, sha256, parsed in landing.read(days):
            read[day] = [landing.reading, sha256]
            table = self.finish(ctx, parsed.table)
            schema = table.schema
            if parsed.new_columns:
                new.update(parsed.new_columns)
                table = table.replace_schema_metadata({NEW_COLUMNS: json.dumps(parsed.new_columns)})
            pq.write_table(table, attempt.partition(day) / "part-00000.parquet")
        # A file that was replaced and put back while this ran is not what the partition says that it was made from.
        self.require_identified(ctx, read)
        return schema, {"new_columns": sorted(new)} if new else {}

    def _landing(self, ctx: StageContext) -> "Landing":
        return Landing(self.source(ctx), ctx.platform.landing_root, self.event_time(ctx))


class Landing:
    """The files of one source.

    Args:
        source: Its declaration.
        root: Where relative paths start.
        event_time: Column whose times have to be on the file's day.
    """

    def __init__(self, source: Files, root: str | Path, event_time: str | None = None) -> None:
        self.source = source
        self.event_time = event_time
        self.pattern = str(Path(root) / source.path)

    @property
    def reading(self) -> dict[str, Any]:
        """What decides how a file is read; value checks do not."""
        schema = self.source.schema_
        return {
            "columns": [[column.name, column.type, column.nullable] for column in schema.columns],
            "key": schema.key,
            "new_columns": schema.new_columns,
            "delimiter": self.source.delimiter,
            "encoding": self.source.encoding,
            "event_time": self.event_time,
        }

    def path(self, day: date) -> Path:
        """Where the file of a day lands."""
        return Path(self.pattern.replace("{ds}", day.isoformat()))

    def sha256(self, day: date) -> str | None:
        """Hash of a day's file; None when it cannot be read, which `read` reports with all else that is wrong."""
        try:
            return hashlib.sha256(self.path(day).read_bytes()).hexdigest()
        except OSError:
            return None

    def read(self, days: Sequence[date]) -> Iterator[tuple[date, str, Parsed]]:
        """Parse the files of these days, one by one, each with the hash of the very bytes that were parsed.

        Raises:
            BadFile: Names every file that cannot be used; raised after the last one, when all are known.
        """
        refused: list[tuple[Path, Problem]] = []
        copies = self._copies(days)
        for day in days:
            path = self.path(day)
            try:
                if day in copies:
                    what = f"the content is that of {copies[day]}: one file was delivered for two days"
                    raise Refused([Problem(what, f"have the upstream deliver {day} again")])
                delivered = _delivered(path)
                event = None if self.event_time is None else (self.event_time, day)
                parsed = parse(_unpacked(delivered, path), self.source, event)
                yield day, hashlib.sha256(delivered).hexdigest(), parsed
            except Refused as error:
                refused += [(path, problem) for problem in error.problems]
        if refused:
            raise _bad_files(refused, len(days))

    def _copies(self, days: Sequence[date]) -> dict[date, Path]:
        """Days whose file has the content of an earlier day's file, with that file.

        Only files that agree in length and checksum are compared: a landing zone of years costs a look at each file's
        end.
        """
        alike: dict[tuple[int, bytes], list[tuple[date, Path]]] = {}
        for day, path in self._landed():
            # One that cannot be read is refused for that, if it is wanted.
            with contextlib.suppress(OSError):
                alike.setdefault(_mark(path), []).append((day, path))
        wanted = set(days)
        copies = {}
        for files in alike.values():
            for index, (day, path) in enumerate(files):
                earlier = [other for _, other in files[:index] if day in wanted and _same(other, path)]
                if earlier:
                    copies[day] = earlier[0]
        return copies

    def _landed(self) -> list[tuple[date, Path]]:
        """The files that are there, the oldest day first."""
        parts = self.pattern.split("{ds}")
        found = []
        for name in glob.glob("????-??-??".join(glob.escape(part) for part in parts)):
            try:
                day = date.fromisoformat(name[len(parts[0]) : len(parts[0]) + 10])
            except ValueError:
                continue
            if self.path(day) == Path(name) and os.path.isfile(name):
                found.append((day, Path(name)))
        return sorted(found)


def _delivered(path: Path) -> bytes:
    """A file's bytes, as they lie there."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        remedy = "wait until it has landed, or ask the upstream for it, then run the stage again"
        raise Refused([Problem("the file has not landed", remedy)]) from None
    except IsADirectoryError:
        raise Refused([Problem("it is a folder, not a file", "have the upstream deliver the file itself")]) from None
    except OSError as error:
        what = f"it cannot be read: {error.strerror or error}"
        raise Refused([Problem(what, "see that this user can read it, and that its disk is sound")]) from error


def _unpacked(content: bytes, path: Path) -> bytes:
    """The bytes of a file, decompressed."""
    if path.suffix != ".gz" or not content:
        return content
    try:
        return gzip.decompress(content)
    except EOFError as error:
        raise Refused([Problem(f"the gzip file is cut off after {len(content)} bytes")]) from error
    except (OSError, zlib.error) as error:
        raise Refused([Problem(f"it is not a sound gzip file: {error}")]) from error


def _mark(path: Path) -> tuple[int, bytes]:
    """What files of equal content agree in: a gzip file ends with checksum and length, whatever its header says."""
    size = path.stat().st_size
    if path.suffix != ".gz" or size < 8:
        return size, b""
    with path.open("rb") as file:
        file.seek(-8, 2)
        return -1, file.read()


def _same(one: Path, other: Path) -> bool:
    try:
        return _unpacked(_delivered(one), one) == _unpacked(_delivered(other), other)
    except Refused:
        # Refused for what it is itself.
        return False


def _bad_files(refused: Sequence[tuple[Path, Problem]], read: int) -> BadFile:
    if len(refused) == 1:
        path, problem = refused[0]
        where = str(path) if problem.row is None else f"{path}, row {problem.row}"
        return BadFile(problem.what, where=where, remedy=f"{problem.remedy}; nothing was committed")
    files = len({path for path, _ in refused})
    lines = [f"\n  {path}, {problem} -> {problem.remedy}" for path, problem in refused[:_SHOWN]]
    if len(refused) > _SHOWN:
        lines.append(f"\n  and {len(refused) - _SHOWN} more")
    return BadFile(
        f"{files} of {read} landing files cannot be used:{''.join(lines)}\n",
        remedy="as said of each; nothing was committed",
    )
