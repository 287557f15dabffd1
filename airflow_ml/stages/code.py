"""The user's entry points: loading them, and a version of the code behind them."""

import ast
import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.version import __version__


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


def code_version(entry_points: Iterable[str]) -> str:
    """Version of the code that makes a result: the package's, and a hash of the user's modules behind the entry points.

    Modules are followed through imports inside the same top-level package, so that a change in a helper counts; other
    packages are pinned by their deployment.
    """
    files: dict[str, Path] = {}
    for entry_point in sorted(set(entry_points)):
        _follow(entry_point.partition(":")[0], files)
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
    for node in ast.walk(ast.parse(path.read_bytes())):
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
