"""Running stages in processes of their own: killed with signal 9 at a step of register or release, or two at once."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow_ml.lifecycle.errors import AirflowMLError, ChampionMoved
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.registry import champions, records, tracking
from airflow_ml.spec import Platform
from airflow_ml.stages import runner
from tests.support import forked
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
    from airflow_ml.serving.targets.servers import ModelServers

    places: dict[str, tuple[Any, str]] = {
        "version made": (MlflowClient, "create_model_version"),
        "recorded": (champions, "record"),
        "challenger set": (versions, "set_challenger"),
        "published": (ModelServers, "publish"),
        "versions written": (ModelServers, "serve"),
        "available": (ModelServers, "wait_available"),
        "champion recorded": (records, "write"),
        "mirrored": (champions, "mirror_champion"),
        "labelled": (ModelServers, "label"),
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
        return forked.run(_run_until, step, asked, Path(folder) / "answer")


def _run_until(step: str, asked: Path, answer: Path) -> int:
    from airflow_ml.stages.__main__ import main

    install_step(step)
    return main(asked, answer)


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
    made = forked.context()
    start, results = made.Barrier(len(arguments)), made.Queue()
    processes = [made.Process(target=_told, args=(function, given, start, results)) for given in arguments]
    for process in processes:
        process.start()
    said = [results.get(timeout=200) for _ in processes]
    for process in processes:
        process.join()
    return said


def _told(function: Callable[..., str], arguments: tuple[Any, ...], start: Any, results: Any) -> None:
    start.wait()
    results.put(function(*arguments))
