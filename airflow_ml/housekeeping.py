"""What replaced partitions and killed attempts have left behind, and how it is removed. Nothing that a result names."""

import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from airflow_ml.lake import LakeTable
from airflow_ml.lake.vacuum import vacuum
from airflow_ml.spec import Model, Platform
from airflow_ml.stages.runner import read_result

DAY_S = 86_400


@dataclass(frozen=True)
class Leftovers:
    """What was found in one place.

    Attributes:
        where: Table or folder of attempts.
        files: How many.
        size_bytes: Their sum.
    """

    where: Path
    files: int
    size_bytes: int


def sweep(model: Model, platform: Platform, days: int, dry_run: bool = False) -> list[Leftovers]:
    """Remove what nobody can come back to; may run beside stages.

    Versions of tables that a training set pins keep their files, whatever became of its model.

    Args:
        model: Whose tables and runs.
        platform: Says where the base is.
        days: Age of files that go from tables; of attempts in `runs`, those of more than a day go.
        dry_run: Only look.
    """
    base = Path(platform.base)
    found = []
    for folder in sorted((base / "lake" / model.name).glob("*")):
        table = LakeTable(folder)
        if table.exists():
            gone = vacuum(table, _pinned(base, model.name, table.name), days, dry_run)
            found.append(Leftovers(folder, len(gone), sum(size for _, size in gone)))
    for stage in sorted((base / "runs" / model.name).glob("*")):
        attempts = [attempt for folder in stage.glob("*") for attempt in _swept(folder, dry_run)]
        if attempts:
            found.append(Leftovers(stage, sum(files for files, _ in attempts), sum(size for _, size in attempts)))
    return [leftovers for leftovers in found if leftovers.files]


def _pinned(base: Path, model: str, table: str) -> set[int]:
    """Versions that training sets were made from."""
    results = [read_result(path) for path in (base / "runs" / model / "training_set").glob("*/result.json")]
    pins = [result.summary["pins"] for result in results if result is not None]
    return {int(pin[table]["version"]) for pin in pins if table in pin}


def _swept(folder: Path, dry_run: bool) -> Iterator[tuple[int, int]]:
    """Files and bytes of each attempt that died here: the result, where there is one, was made by another."""
    with _idle(folder) as idle:
        if not idle:
            return
        result = folder / "result.json"
        named = result.read_text(encoding="utf-8") if result.exists() else ""
        for attempt in folder.glob("attempt-*"):
            stats = [path.stat() for path in [attempt, *attempt.rglob("*")]]
            if attempt.name in named or max(stat.st_mtime for stat in stats) > time.time() - DAY_S:
                continue
            if not dry_run:
                shutil.rmtree(attempt, ignore_errors=True)
            yield len(stats), sum(stat.st_size for stat in stats)


@contextlib.contextmanager
def _idle(folder: Path) -> Iterator[bool]:
    """Whether no process works on this result; none begins meanwhile."""
    lock = folder / "lock"
    if not lock.exists():
        yield False
        return
    with lock.open("rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
