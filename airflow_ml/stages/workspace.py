"""The base folder: its format, who owns a model's name, locks, and atomic files."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from airflow_ml.lifecycle.errors import AirflowMLError, BaseError, NameTaken
from airflow_ml.lifecycle.requests import FORMAT
from airflow_ml.spec import Model
from airflow_ml.version import __version__

_CHUNK = 1 << 20


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or the old one, also after a crash."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise storage_error(error, path) from error


def storage_error(error: OSError, path: Path) -> BaseError:
    """What an operating-system error while writing means to a person."""
    remedies = {
        errno.ENOSPC: "free space on this file system; nothing was committed, then retry",
        errno.EDQUOT: "free space in this quota; nothing was committed, then retry",
        errno.EROFS: "the base lies on a read-only file system: mount it writable or choose another base",
        errno.EACCES: "give the user that runs tasks write permission, or choose another base",
    }
    return BaseError(
        f"cannot write: {error.strerror or error}", where=str(path), remedy=remedies.get(error.errno or 0, "check the disk, then retry")
    )


def open_base(base: Path) -> None:
    """Mark a new base, and refuse one that a newer package wrote.

    Raises:
        BaseError: Not writable, or of a newer format.
    """
    marker = base / "airflow_ml.json"
    if not marker.exists():
        write_atomically(marker, json.dumps({"format": FORMAT, "created_by": __version__}))
        return
    try:
        found = json.loads(marker.read_text())
        version = int(found["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise BaseError("not a marker of ours", where=str(marker), remedy="restore the file, or choose another base") from error
    if version > FORMAT:
        raise BaseError(
            f"written by airflow-ml {found.get('created_by', '?')} in format {version}; this is {__version__}, which knows {FORMAT}",
            where=str(base),
            remedy="upgrade airflow-ml here, or choose another base",
        )


def claim_name(base: Path, model: Model) -> None:
    """Bind a model's name to its declaring module in this base.

    Raises:
        NameTaken: A model of this name is declared elsewhere.
    """
    record = base / "models" / f"{model.name}.json"
    if not record.exists():
        write_atomically(record, json.dumps({"declared_in": model.declared_in}))
    owner = json.loads(record.read_text())["declared_in"]
    if owner != model.declared_in:
        raise NameTaken(
            f"{model.name!r} belongs to the model declared in {owner!r}; this one is declared in {model.declared_in!r}",
            where=str(record),
            remedy="give one of them another name; if the declaration only moved, delete this record",
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
        raise AirflowMLError("the file is not what was pinned: its hash changed", where=uri, remedy="restore it, or run the stage again")
    return path
