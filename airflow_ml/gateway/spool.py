"""Predictions on their way to the lake, on a local disk: what is written here outlives the process that wrote it.

    <root>/<writer>/lock              held while the writer or its committer lives
    <root>/<writer>/00000007.closed   lines, to be committed as batch 7 of this writer
    <root>/<writer>/00000008.open     lines, being written

A line is handed to the operating system before its prediction is answered, so a killed gateway loses no line of an
answer that was given. What a dead writer left is adopted by whoever holds its lock next.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from airflow_ml.storage import storage_error

_HIDDEN = ".new-"


@dataclass(frozen=True)
class Segment:
    """Lines that become one commit.

    Attributes:
        number: Of the batch.
        path: The file.
        closed: Whether nobody writes into it any more.
    """

    number: int
    path: Path
    closed: bool


class Spool:
    """One writer's folder.

    Args:
        root: Shared by all writers of a model on this disk; created.

    Attributes:
        writer: Name of this one, never used again.
        lock: Descriptor of the lock; a child that inherits it keeps it.
        bytes: In the open segment.

    Raises:
        BaseError: The disk cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self.writer = uuid.uuid4().hex[:16]
        self.folder = root / self.writer
        hidden = root / f"{_HIDDEN}{self.writer}"
        try:
            hidden.mkdir(parents=True)
            self.lock = os.open(hidden / "lock", os.O_CREAT | os.O_RDWR, 0o666)
            fcntl.flock(self.lock, fcntl.LOCK_EX)
            # Nobody adopts what is hidden, and what is not is locked.
            hidden.rename(self.folder)
        except OSError as error:
            raise storage_error(error, root) from error
        self._number = 0
        self._file: int | None = None
        self._torn = False
        self.bytes = 0

    def append(self, line: bytes) -> None:
        """Hand a line, which ends with a newline, to the operating system.

        Raises:
            OSError: The disk is full or gone; the line is lost.
        """
        if self._file is None:
            self._number += 1
            path = self.folder / f"{self._number:08}.open"
            self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o666)
        content = b"\n" + line if self._torn else line
        written = os.write(self._file, content)
        self.bytes += written
        # A disk that fills up takes a part; the next line must not be glued to it.
        self._torn = written != len(content)
        if self._torn:
            raise OSError(f"{written} of {len(content)} bytes written")

    def rotate(self) -> bool:
        """Close the open segment; returns whether there was one.

        Raises:
            OSError: It cannot be renamed; the next call tries again.
        """
        file, self._file, self._torn, self.bytes = self._file, None, False, 0
        if file is not None:
            os.close(file)
        left = [segment.path for segment in segments(self.folder) if not segment.closed]
        for path in left:
            path.rename(path.with_suffix(".closed"))
        return bool(left)

    def release(self) -> None:
        """Let the lock go; a child that inherited it has it still."""
        os.close(self.lock)


def segments(folder: Path) -> list[Segment]:
    """The segments of a writer, oldest first."""
    found = [path for path in folder.iterdir() if path.suffix in (".open", ".closed") and path.stem.isdecimal()]
    return [Segment(int(path.stem), path, path.suffix == ".closed") for path in sorted(found)]


def orphans(root: Path) -> Iterator[Path]:
    """Folders of writers that are dead; each is locked until the next one is asked for, and removed if it is empty."""
    for folder in sorted(root.iterdir() if root.is_dir() else ()):
        if folder.name.startswith(_HIDDEN):
            continue
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # not a writer's, or adopted by somebody else just now
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        try:
            if folder.is_dir():
                yield folder
                with suppress(OSError):
                    if not segments(folder):
                        shutil.rmtree(folder)
        finally:
            os.close(lock)
