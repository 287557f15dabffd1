"""A version from a folder, warmed up; and why it cannot be loaded, in TensorFlow's own code and words."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.server.flags import Flags
from airflow_ml.serving.server.metrics import Metrics
from airflow_ml.serving.server.servable import Servable
from airflow_ml.serving.server.status import Code, StatusError, of_exception
from airflow_ml.serving.server.versions import State
from airflow_ml.serving.server.warmup import warm_up

_THREADS_OF_A_VERSION = 8


@dataclass(frozen=True)
class VersionStatus:
    """Where a version stands, and what went wrong."""

    state: State
    code: Code = Code.OK
    message: str = ""


class Version:
    """A version that is being loaded, served or unloaded.

    Args:
        path: Its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status = VersionStatus(State.START)
        self.servable: Servable | None = None
        self.borrowers = 0
        self.pool = ThreadPoolExecutor(_THREADS_OF_A_VERSION, thread_name_prefix="version")  # threads start when used


def load(path: Path, number: int, metrics: Metrics, flags: Flags) -> Servable:
    """Load a version and run its warm-up requests.

    Raises:
        StatusError: it cannot be loaded.
    """
    began = time.perf_counter()
    try:
        servable = Servable(path, number, metrics, flags)
        try:
            if flags.enable_model_warmup:
                warm_up(servable, path, metrics)
        except BaseException:
            servable.close()
            raise
    except Exception as error:
        metrics.loads.add(str(path), "fail")
        raise _problem(error, path, flags.saved_model_tags) from error
    metrics.loads.add(str(path), "success")
    metrics.load_time.add(str(path), by=int((time.perf_counter() - began) * 1e6))
    return servable


def _problem(error: Exception, path: Path, tags: str) -> StatusError:
    """What TensorFlow's loader in C++ would say: the one in Python finds the same faults before it comes to that.

    Source: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/cc/saved_model/reader.cc
    """
    cause = error.__cause__ if isinstance(error, ServingError) else error
    if isinstance(cause, OSError):
        graph = path / "saved_model.pb"
        if graph.is_file():
            return StatusError(Code.DATA_LOSS, f"Can't parse {graph} as binary proto")
        return StatusError(
            Code.NOT_FOUND, f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}"
        )
    if isinstance(cause, RuntimeError) and "tags" in str(cause):
        return StatusError(
            Code.NOT_FOUND, f"Could not find meta graph def matching supplied tags: {{ {tags.replace(',', ' ')} }}"
        )
    return of_exception(cause if cause is not None and hasattr(cause, "error_code") else error)
