"""Running a stage in a process of its own that kills itself with signal 9 at a step of register or release."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from airflow_ml.lifecycle.requests import JobRequest
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

    from airflow_ml.registry import champions, versions
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


if __name__ == "__main__":
    from airflow_ml.stages.__main__ import main

    install_step(sys.argv[1])
    sys.exit(main(Path(sys.argv[2]), Path(sys.argv[3])))
