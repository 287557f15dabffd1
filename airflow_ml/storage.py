"""Files that survive crashes: atomic writes, locks that die with their holder, hashes."""

import contextlib
import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from airflow_ml.lifecycle.errors import AirflowMLError, BaseError

_CHUNK = 1 << 20


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or the old one, also after a crash."""
    with written_whole(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to be written, of which a reader sees all or the old one; it has another name until it is on the disk.

    Raises:
        BaseError: The operating system refuses.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise storage_error(error, path) from error


def fsync(path: Path) -> None:
    """Write one file, or the names in one folder, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(error: OSError, path: Path) -> BaseError:
    """What an operating-system error while writing means to a person."""
    remedies = {
        errno.ENOSPC: "free space on this file system, then retry: what is committed stays",
        errno.EDQUOT: "free space in this quota, then retry: what is committed stays",
        errno.EROFS: "the base lies on a read-only file system: mount it writable or choose another base",
        errno.EACCES: "give the user that runs tasks write permission, or choose another base",
    }
    return BaseError(
        f"cannot write: {os.strerror(error.errno) if error.errno else error}",
        where=str(path),
        remedy=remedies.get(error.errno or 0, "check the disk, then retry"),
    )


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel frees it when the process dies, however it dies.

    Args:
        path: The lock file, created.
        waiting: Called once when somebody else holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise storage_error(error, path) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hash of a file, or of a folder's relative paths and contents."""
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()
    for member in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{member.relative_to(path).as_posix()}\0{sha256(member)}\n".encode())
    return digest.hexdigest()


def verify(uri: str, expected: str) -> Path:
    """The path of a pinned file, after checking that it is what was pinned.

    Raises:
        AirflowMLError: It is gone or changed.
    """
    path = Path(uri)
    if not path.exists():
        raise AirflowMLError("the file is gone", where=uri, remedy="restore it, or run the stage that makes it again")
    if sha256(path) != expected:
        raise AirflowMLError(
            "the file is not what was pinned: its hash changed", where=uri, remedy="restore it, or run the stage again"
        )
    return path
