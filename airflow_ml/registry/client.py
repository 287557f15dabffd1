"""Reaching MLflow: one client a process, a schema that is made once, and errors that say where and what to do.

MLflow costs seconds to import, so it is imported by the first call and not before.
"""

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from airflow_ml.lifecycle.errors import BaseError
from airflow_ml.spec import Platform
from airflow_ml.storage import locked

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

P = ParamSpec("P")
R = TypeVar("R")

_SQLITE = "sqlite:///"
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's seven retries keep a task waiting for minutes; tasks have retries of their own.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}


def client_of(platform: Platform) -> "MlflowClient":
    """An MLflow client for this platform, one a process.

    Raises:
        BaseError: The registry cannot be reached or used.
    """
    return _open(platform)


def is_database(platform: Platform) -> bool:
    """Whether the registry is a SQLite file, whose artifacts we have to place."""
    return platform.registry_uri.startswith(_SQLITE)


@contextlib.contextmanager
def alone(platform: Platform) -> Iterator[None]:
    """Hold the registry's lock: MLflow has no create-if-absent by tag."""
    with locked(_lock(platform.base)):
        yield


def clear_errors(function: Callable[Concatenate[Platform, P], R]) -> Callable[Concatenate[Platform, P], R]:
    """Have a function of a platform raise `BaseError` where MLflow or its database fails."""

    @functools.wraps(function)
    def clear(platform: Platform, /, *args: P.args, **options: P.kwargs) -> R:
        try:
            return function(platform, *args, **options)
        except Exception as error:
            if not _is_of_mlflow(error):
                raise
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise BaseError(
                f"the MLflow registry cannot be used: {first[:500]}",
                where=platform.registry_uri,
                remedy="see that the server answers, or that the file is writable and of MLflow's schema; then retry",
            ) from error

    return clear


def _is_of_mlflow(error: Exception) -> bool:
    """Whether MLflow or SQLAlchemy raised it; neither is imported to find out."""
    for module, name in (("mlflow.exceptions", "MlflowException"), ("sqlalchemy.exc", "SQLAlchemyError")):
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return True
    return False


@clear_errors
def _open(platform: Platform) -> "MlflowClient":
    return _connect(platform.registry_uri, platform.base)


@functools.lru_cache(maxsize=4)
def _connect(uri: str, base: str) -> "MlflowClient":
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not uri.startswith(_SQLITE):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    Path(uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    # MLflow creates its tables in the first client of a database; two at once would collide.
    with locked(_lock(base)):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
        return client


def _lock(base: str) -> Path:
    return Path(base) / "registry" / ".lock"
