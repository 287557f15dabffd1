"""Processes that begin with the engines imported, where a test starts dozens of them only to kill them.

They are forked from a server that imports once for each pytest worker. They are real processes: what a signal 9 takes
from them is gone. What is tested is not how a stage is started; that a fresh interpreter runs it is tested elsewhere.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any


def context() -> ForkServerContext:
    """Makes processes, and the queues and barriers between them."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.support.preloaded"])
    return found


def run(function: Callable[..., int], *arguments: Any) -> tuple[int, str]:
    """Call a function in a new process, with this one's environment.

    Returns:
        Exit code, which is what the function returned, or -9 when it was killed; and the output.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "output"
        process = context().Process(target=_told, args=(str(log), dict(os.environ), os.getcwd(), function, arguments))
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode, log.read_text(errors="replace") if log.exists() else ""


def _told(
    log: str, environment: dict[str, str], folder: str, function: Callable[..., int], arguments: tuple[Any, ...]
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    with open(log, "wb", buffering=0) as output:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    sys.exit(function(*arguments))
