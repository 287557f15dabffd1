"""Files of one execution, staged in a table's folder: part of no version until a commit names them."""

import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from airflow_ml.lifecycle.errors import BaseError

PARTITION = "ds"


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


def begin(table: Path) -> Attempt:
    """A fresh folder to stage files in.

    Args:
        table: The table's folder.

    Raises:
        BaseError: Not writable.
    """
    id_ = uuid.uuid4().hex[:16]
    folder = table / f"staged-{id_}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise BaseError(
            f"cannot write: {error.strerror}",
            where=str(table),
            remedy="free space or make the base writable, then retry",
        ) from error
    return Attempt(id_, folder)
