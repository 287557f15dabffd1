"""The user's entry points: loading them, and a version of the code behind them."""

import ast
import hashlib
import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.version import __version__

log = logging.getLogger("airflow_ml.stages")


def load(entry_point: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names.

    Raises:
        SpecError: The module cannot be imported, or has no such callable.
    """
    module_name, _, attribute = entry_point.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # any error of the user's module, shown as what it is
        raise SpecError(
            f"cannot import {module_name}: {type(error).__name__}: {error}",
            where=f"entry point {entry_point}",
            remedy="install the package, or put its folder on PYTHONPATH, where the job runs",
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise SpecError(
            f"{module_name} has no function {attribute!r}", where=f"entry point {entry_point}", remedy="fix the name"
        )
    return function  # type: ignore[no-any-return]


@contextmanager
def called(entry_point: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Around a call of the user's function: what it raises is told as its error, and its traceback goes to the log.

    Args:
        entry_point: The function.
        passing: Errors that somebody else explains.

    Raises:
        SpecError: The function failed.
    """
    try:
        yield
    except Exception as error:  # any error of the user's function, shown as what it is
        if isinstance(error, (AirflowMLError, *passing)):
            raise
        log.exception("%s failed", entry_point)
        raise SpecError(
            f"the function failed: {type(error).__name__}: {error}",
            where=f"entry point {entry_point}",
            remedy="correct it; its traceback is in the log above",
        ) from error


def code_version(entry_points: Iterable[str]) -> str:
    """Version of the code that makes a result: the package's, and a hash of the user's modules behind the entry points.

    Modules are followed through imports inside the same top-level package, so that a change in a helper counts; other
    packages are pinned by their deployment. The package itself counts by its version alone: who changes its source
    in place, as a developer of it does, gets the results of before until the version changes too.

    Raises:
        SpecError: A module cannot be read.
    """
    files: dict[str, Path] = {}
    for entry_point in sorted(set(entry_points)):
        try:
            _follow(entry_point.partition(":")[0], files)
        except Exception as error:  # a syntax error, or whatever a package raises when it is imported
            raise SpecError(
                f"its code cannot be read: {type(error).__name__}: {error}",
                where=f"entry point {entry_point}",
                remedy="correct the module; its name and line are those of the message",
            ) from error
    if not files:
        return __version__
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name].read_bytes() + b"\0")
    return f"{__version__}+{digest.hexdigest()[:16]}"


def _follow(module: str, files: dict[str, Path]) -> None:
    if module in files:
        return
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        return
    # Our own package is covered by its version; only an example inside it is user code.
    if module.startswith("airflow_ml.") and not module.startswith("airflow_ml.examples."):
        return
    path = files[module] = Path(found.origin)
    top = module.partition(".")[0]
    package = module if found.submodule_search_locations else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")
                base = ".".join([*parent[: len(parent) - node.level + 1], *([base] if base else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == top:
                _follow(name, files)
