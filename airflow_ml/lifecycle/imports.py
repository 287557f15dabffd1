"""Importing a user's module: where it failed."""

import importlib
import traceback
from pathlib import Path


def place(error: BaseException, module_name: str) -> str:
    """File and line of an error that importing a module raised: in the module itself, if it got there.

    Args:
        error: Caught by whoever called `importlib.import_module`.
        module_name: Of the module.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    _, *frames = traceback.extract_tb(error.__traceback__)  # the first is the caller's
    frames = [f for f in frames if not f.filename.startswith("<frozen") and f.filename != importlib.__file__]
    leaf = f"{module_name.rpartition('.')[2]}.py"
    own = [frame for frame in frames if Path(frame.filename).name == leaf] or frames
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else module_name
