"""What Spark's failures mean to a person.

An error of the JVM arrives as Py4J's, whose text is the stack traces of every cause, a page long. The innermost cause
says what happened: a write that the operating system refused becomes the `BaseError` that other stages raise; anything
else is one sentence, and the page goes to the log.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ml.lifecycle.errors import AirflowMLError, BaseError, StageError
from airflow_ml.stages.context import log
from airflow_ml.storage import storage_error

if TYPE_CHECKING:
    from py4j.protocol import Py4JError

_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)
_NO_FOLDER = ("Mkdirs failed to create", "Parent path is not a directory", "Failed to create local dir")
"""How Hadoop and Spark say that they could not make a folder; they do not say why."""

_SCRATCH = ("ShuffleMapTask", "DiskBlockObjectWriter", "DiskBlockManager", "storage.DiskStore")
"""Who writes Spark's own temporary files, in a stack trace."""

_LONGEST = 300


@contextmanager
def told_plainly(written: Path, entry_point: str) -> Iterator[None]:
    """Turn errors of Spark's into ours.

    Args:
        written: Folder of the table that the job writes.
        entry_point: The user's function that the job runs.

    Raises:
        BaseError: Something could not be written: there, or in Spark's scratch folder.
        StageError: Spark failed, or its process ended.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (Py4JError, ConnectionError) as error:
        # Stopping the session of a process that is gone ends with a refused connection.
        raise _translated(error, written, entry_point) from None
    except PySparkException as error:
        log.error("%s", error)
        raise _failed(_first_line(str(error)), entry_point) from None


def _translated(error: "Py4JError | ConnectionError", written: Path, entry_point: str) -> AirflowMLError:
    causes = _causes(error)
    trace = str(error)
    if not causes:
        log.error("%s", trace)
        return StageError(
            f"Spark's process ended while it worked: {_first_line(trace)}",
            where=f"entry point {entry_point}",
            remedy="was it out of memory or killed? See the log above; give it fewer days at once, or more memory",
        )
    scratch = any(name in trace for name in _SCRATCH)
    where = _scratch_folder() if scratch else written
    for _, message in causes:
        number = next((number for number in _ERRNOS if os.strerror(number) in message), None)
        if number is not None:
            refused = storage_error(OSError(number, os.strerror(number)), where)
            hint = "; or choose another scratch folder of Spark's by SPARK_LOCAL_DIRS" if scratch else ""
            return BaseError(refused.what, refused.where, refused.remedy + hint)
        if message.startswith(_NO_FOLDER):
            return BaseError(
                f"cannot write: {_first_line(message)}",
                where=str(where),
                remedy="make this folder writable for the user that runs tasks, and see that the disk is not full; "
                "nothing was committed, then retry",
            )
    log.error("%s", trace)
    kind, message = causes[0]
    return _failed(f"{kind.rpartition('.')[2]}: {_first_line(message)}", entry_point)


def _failed(what: str, entry_point: str) -> StageError:
    return StageError(
        f"Spark failed: {what}",
        where=f"entry point {entry_point}",
        remedy="look for the cause in what the function does; Spark's own trace is in the log above",
    )


def _causes(error: "Py4JError | ConnectionError") -> list[tuple[str, str]]:
    """Class and message of each Java exception, the innermost first; none where there is no Java to ask any more."""
    from py4j.protocol import Py4JError

    found: list[tuple[str, str]] = []
    try:
        at = getattr(error, "java_exception", None)
        while at is not None and len(found) < 20:
            found.append((str(at.getClass().getName()), str(at.getMessage() or "")))
            at = at.getCause()
    except (Py4JError, OSError):
        return []
    return found[::-1]


def _scratch_folder() -> Path:
    """As Spark chooses it for a local session."""
    return Path(os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0] or tempfile.gettempdir())


def _first_line(text: str) -> str:
    line = (text.strip().splitlines() or ["no message"])[0]
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
