"""Running stages in processes of their own: killed with signal 9 at a step of register or release, or two at once.

Imports little, because every such process imports it.
"""

import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow_ml.lifecycle.errors import AirflowMLError, ChampionMoved
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.registry import champions, tracking
from airflow_ml.spec import Platform
from airflow_ml.stages import runner
from tests.support.killing import die, install

REGISTER = ("version made", "recorded", "challenger set", "before result", "after result")
RELEASE = (
    "published",
    "versions written",
    "available",
    "champion recorded",
    "mirrored",
    "labelled",
    "before result",
    "after result",
)


def install_step(step: str) -> None:
    """Make this process die right after the step."""
    from mlflow.tracking import MlflowClient

    from airflow_ml.registry import versions
    from airflow_ml.serving import deployment

    places: dict[str, tuple[Any, str]] = {
        "version made": (MlflowClient, "create_model_version"),
        "recorded": (champions, "record"),
        "challenger set": (versions, "set_challenger"),
        "published": (deployment, "publish"),
        "versions written": (deployment.ModelConfigFile, "ensure_versions"),
        "available": (deployment, "wait_available"),
        "champion recorded": (champions, "write_atomically"),
        "mirrored": (champions, "mirror_champion"),
        "labelled": (deployment.ModelConfigFile, "set_label"),
    }
    if step not in places:
        install(step)
        return
    owner, name = places[step]
    function = getattr(owner, name)

    def dying(*args: Any, **options: Any) -> None:
        function(*args, **options)
        die()

    setattr(owner, name, dying)


def run_until(step: str, request: JobRequest) -> tuple[int, str]:
    """Run a request in a new process; returns its exit code, -9 when it was killed, and its output."""
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "request.json"
        asked.write_text(request.model_dump_json())
        command = [sys.executable, "-m", "tests.unit.lifecycle.steps", step, str(asked), str(Path(folder) / "answer")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        return done.returncode, done.stdout + done.stderr


def at_once(*requests: JobRequest) -> list[str]:
    """Run requests at the same time; returns ``done``, or what the error says."""
    return together(execute, [(request.model_dump_json(),) for request in requests])


def execute(request: str) -> str:
    try:
        runner.execute(JobRequest.model_validate_json(request))
    except AirflowMLError as error:
        return error.what
    return "done"


def start_run(base: str) -> str:
    return tracking.start_run(Platform(base=base), "small", "f" * 64)


def promote(base: str, version: int) -> str:
    platform = Platform(base=base)
    try:
        champions.promote(platform, champions.release_of(platform, "small", version), expected=None)
    except ChampionMoved:
        return "moved"
    return "promoted"


def together(function: Callable[..., str], arguments: list[tuple[Any, ...]]) -> list[str]:
    """Call a function in several new processes that start at the same moment; returns what it says, in any order."""
    spawn = multiprocessing.get_context("spawn")
    start, results = spawn.Barrier(len(arguments)), spawn.Queue()
    processes = [spawn.Process(target=_told, args=(function, given, start, results)) for given in arguments]
    for process in processes:
        process.start()
    said = [results.get(timeout=200) for _ in processes]
    for process in processes:
        process.join()
    return said


def _told(function: Callable[..., str], arguments: tuple[Any, ...], start: Any, results: Any) -> None:
    start.wait()
    results.put(function(*arguments))


if __name__ == "__main__":
    from airflow_ml.stages.__main__ import main

    install_step(sys.argv[1])
    sys.exit(main(Path(sys.argv[2]), Path(sys.argv[3])))
