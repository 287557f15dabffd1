"""The folder of one request: ``<base>/runs/<model>/requests/<id>/{request,response}.json``.

Results and reports lie elsewhere and stay. A request is only the exchange between a task and its job: what is older
than `KEEP_S` is removed, once a day, by whoever sends the next one. Not removed are requests that are still worked on,
which their process holds by a lock, and those whose answer names a report that is there: links in Airflow's UI lead
through them.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
import uuid
from pathlib import Path

from airflow_ml.lifecycle.errors import AirflowMLError
from airflow_ml.lifecycle.protocol import LEASE, REQUEST, RESPONSE
from airflow_ml.lifecycle.requests import JobRequest, JobResult
from airflow_ml.storage import storage_error, write_atomically

KEEP_S = 30 * 86_400.0
_DAY_S = 86_400.0
_TAKEN = "taken"
"""Empty file that says that a task has the answer: whoever asks again asks for a new one."""
_SWEPT = ".swept"
"""Empty file whose time says when old requests were last looked for."""


def requests_folder(base: str | Path, model: str) -> Path:
    """Folder of all requests of a model."""
    return Path(base) / "runs" / model / "requests"


def write_request(request: JobRequest) -> Path:
    """Write a request into a new folder; returns the folder, whose name is the request's id.

    Raises:
        BaseError: The base is not writable.
    """
    folder = requests_folder(request.platform.base, request.model.name) / uuid.uuid4().hex
    write_atomically(folder / REQUEST, request.model_dump_json(indent=2))
    return folder


def renew(folder: str | Path) -> None:
    """Say that somebody waits for the job. Never an error: the folder may be gone with the model."""
    path = Path(folder) / LEASE
    with contextlib.suppress(OSError):
        path.touch()


def waited_for(folder: str | Path) -> float | None:
    """When somebody last waited for the job, seconds since the epoch; None where nobody here can know."""
    try:
        return (Path(folder) / LEASE).stat().st_mtime
    except OSError:
        return None


def take(folder: str | Path) -> None:
    """Say that a task has the answer. Never an error: the folder may be gone with the model."""
    with contextlib.suppress(OSError):
        (Path(folder) / _TAKEN).touch()


def taken(folder: str | Path) -> bool:
    """Whether a task has the answer."""
    return (Path(folder) / _TAKEN).exists()


def hold(folder: Path) -> int:
    """Hold a request; returns the file descriptor whose last copy to be closed lets it go.

    Raises:
        BaseError: The base does not let files be locked.
    """
    path = folder / REQUEST
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(handle, fcntl.LOCK_SH)
    except OSError as error:
        raise storage_error(error, path) from error
    return handle


def remove_old(base: str | Path, model: str, now: float | None = None) -> list[str]:
    """Remove the requests that nobody needs any more; returns their ids. Does nothing when it was done today.

    Never an error: a request that cannot be removed is left for another day.

    Args:
        base: Base folder.
        model: Model's name.
        now: Seconds since the epoch; None asks the clock.
    """
    now = time.time() if now is None else now
    folder = requests_folder(base, model)
    swept = folder / _SWEPT
    removed: list[str] = []
    with contextlib.suppress(OSError):
        if swept.exists() and now - swept.stat().st_mtime < _DAY_S:
            return []
        swept.touch()
        os.utime(swept, (now, now))
        for path in folder.iterdir():
            if path.is_dir() and now - path.stat().st_mtime > KEEP_S and not _held(path) and not _shown(path):
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path.name)
    return removed


def _held(folder: Path) -> bool:
    """Whether a process works on a request."""
    try:
        with (folder / REQUEST).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _shown(folder: Path) -> bool:
    """Whether the answer names a report that is there."""
    try:
        answer = json.loads((folder / RESPONSE).read_text(encoding="utf-8"))
        return any(Path(report["uri"]).exists() for report in (answer.get("reports") or {}).values())
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        # Nothing that we wrote: not ours to remove.
        return True


def read_response(folder: str | Path) -> JobResult | AirflowMLError | None:
    """What the job wrote: its result, its error as data, or None."""
    try:
        text = (Path(folder) / RESPONSE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    data = json.loads(text)
    if "error" in data:
        return AirflowMLError.from_dict(data)
    return JobResult.model_validate(data)
