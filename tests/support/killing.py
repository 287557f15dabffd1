"""Running a stage in a process of its own that kills itself with signal 9 at a named moment.

The moments are the persisted steps that every stage shares. The killing is patched in here, in the test's process: the
product knows nothing of it.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from airflow_ml.lifecycle.requests import JobRequest, JobResult

COMMIT_MOMENTS = ("files written", "before commit", "after commit", "before result", "after result")
"""Persisted steps of a stage that commits a table, in their order."""

FILE_MOMENTS = ("before result", "after result")
"""Persisted steps of a stage whose result is files."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def install(moment: str) -> None:
    """Make this process die at the moment."""
    import deltalake

    from airflow_ml.lake import LakeTable
    from airflow_ml.stages import runner

    commit, transact, write = LakeTable.commit, deltalake.DeltaTable.create_write_transaction, runner.write_atomically

    def committing(*args, **options):
        if moment == "files written":
            die()
        return commit(*args, **options)

    def transacting(*args, **options):
        if moment == "before commit":
            die()
        transact(*args, **options)
        if moment == "after commit":
            die()

    def writing(path: Path, text: str) -> None:
        if path.name == "result.json" and moment == "before result":
            die()
        write(path, text)
        if path.name == "result.json" and moment == "after result":
            die()

    LakeTable.commit = committing
    deltalake.DeltaTable.create_write_transaction = transacting
    runner.write_atomically = writing


def run_in_process(request: JobRequest, moment: str = "never") -> tuple[int, JobResult | None, str]:
    """Run a request in a new process.

    Returns:
        Exit code (-9 when it was killed), the result when there is one, and the output.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "response.json"
        asked.write_text(request.model_dump_json())
        command = [sys.executable, "-m", "tests.support.killing", moment, str(asked), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        result = JobResult.model_validate_json(answer.read_text()) if done.returncode == 0 else None
        return done.returncode, result, done.stdout + done.stderr


if __name__ == "__main__":
    from airflow_ml.stages.__main__ import main

    install(sys.argv[1])
    sys.exit(main(Path(sys.argv[2]), Path(sys.argv[3])))
