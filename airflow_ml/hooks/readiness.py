"""Whether what a task needs is there: landed files and committed partitions, seen without an engine.

Sensors look once in the worker, and the triggerer goes on looking: neither may import pyarrow or deltalake. A committed
partition is a Delta app transaction (see `airflow_ml.lake.table`), and those stand as plain JSON in the table's log,
whose entries we never clean up.

Source: https://github.com/delta-io/delta/blob/master/PROTOCOL.md#transaction-identifiers
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_ml.lifecycle.errors import BaseError
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Files, Model, Platform
from airflow_ml.spec.base import Frozen

_COMMIT = re.compile(r"^(\d{20})\.json$")


class Wanted(Frozen):
    """One partition that is waited for; it is there when its file has landed or the table has it.

    Attributes:
        day: ISO date.
        file: A landing file.
        table: Folder of a Delta table.
    """

    day: str
    file: str | None = None
    table: str | None = None

    def __str__(self) -> str:
        return f"{self.day} ({self.file or self.table})"


@dataclass
class CommitLog:
    """The partitions that a Delta table has ever committed; a second look reads only what is new.

    Args:
        table: The table's folder; it need not exist.
    """

    table: Path
    _days: set[str] = field(default_factory=set)
    _next: int = 0

    def committed(self) -> frozenset[str]:
        """ISO dates of all committed partitions.

        Raises:
            BaseError: The log has lost its beginning.
        """
        try:
            names = sorted(entry.name for entry in (self.table / "_delta_log").iterdir() if _COMMIT.match(entry.name))
        except FileNotFoundError:
            return frozenset()
        for name in names:
            version = int(name[:20])
            if version < self._next:
                continue
            if version > self._next:
                raise BaseError(
                    f"entry {self._next} of the table's log is gone; the partitions that it committed cannot be seen",
                    where=str(self.table),
                    remedy="keep the table's log (delta.enableExpiredLogCleanup=false); rebuild the table",
                )
            for line in (self.table / "_delta_log" / name).read_text(encoding="utf-8").splitlines():
                # Most lines are file actions; parsing only transactions keeps a year of history at milliseconds.
                if line.startswith('{"txn"'):
                    app = json.loads(line)["txn"]["appId"]
                    if app.startswith("ds="):
                        self._days.add(app.removeprefix("ds="))
            self._next = version + 1
        return frozenset(self._days)


class Readiness:
    """Looks at a list of wanted partitions.

    Args:
        wanted: What is waited for.
    """

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        self.wanted = tuple(wanted)
        self._logs = {want.table: CommitLog(Path(want.table)) for want in wanted if want.table is not None}

    def missing(self) -> list[Wanted]:
        """What is not there yet, in the order of the list."""
        days = {table: log.committed() for table, log in self._logs.items()}
        return [
            want
            for want in self.wanted
            if not (want.table is not None and want.day in days[want.table])
            and not (want.file is not None and Path(want.file).is_file())
        ]


def landing_files(platform: Platform, source: Files, window: Iterable[Any]) -> dict[str, str]:
    """ISO date to the path of its landing file."""
    return {str(day): str(Path(platform.landing_root) / source.path.replace("{ds}", str(day))) for day in window}


def landed(platform: Platform, source: Files, window: Window) -> list[Wanted]:
    """The landing files of a window."""
    return [Wanted(day=day, file=file) for day, file in landing_files(platform, source, window).items()]


def committed(platform: Platform, model: Model, table: str, window: Window) -> list[Wanted]:
    """The partitions of a model's table."""
    return [Wanted(day=str(day), table=table_folder(platform, model, table)) for day in window]


def labelled(platform: Platform, model: Model, window: Window) -> list[Wanted]:
    """The outcomes of a window: landed, or committed from files that may be gone by now."""
    folder = table_folder(platform, model, "outcomes")
    files = landing_files(platform, model.label.source, window)
    return [Wanted(day=day, file=file, table=folder) for day, file in files.items()]


def newest(platform: Platform, model: Model, table: str) -> str | None:
    """ISO date of the newest committed partition; None without any."""
    return max(CommitLog(Path(table_folder(platform, model, table))).committed(), default=None)


def table_folder(platform: Platform, model: Model, table: str) -> str:
    """Folder of a model's table, as `airflow_ml.stages.context` places it."""
    return f"{platform.base}/lake/{model.name}/{table}"
