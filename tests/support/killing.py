"""Running a stage in a process of its own that kills itself with signal 9 at a named moment.

The moments are the persisted steps that every stage shares. The killing is patched in here, in the test's process: the
product knows nothing of it.
"""

import os
import signal
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from airflow_ml.lifecycle.requests import JobRequest, JobResult
from tests.support import forked

COMMIT_MOMENTS = ("before files", "amid files", "before commit", "after commit", "before result", "after result")
"""Persisted steps of a stage that commits a table, in their order. Amid its files, the attempt's folder has one that is
cut off."""

FILE_MOMENTS = ("before files", "before result", "after result")
"""Persisted steps of a stage whose result is files."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def install(moment: str) -> None:
    """Make this process die at the moment."""
    import deltalake

    from airflow_ml.lake import LakeTable
    from airflow_ml.stages import runner
    from airflow_ml.stages.context import StageContext

    attempt, files = LakeTable.attempt, StageContext.files
    transact, write = deltalake.DeltaTable.create_write_transaction, runner.write_atomically

    def attempting(table: LakeTable):
        if moment == "before files":
            die()
        made = attempt(table)
        if moment == "amid files":
            (made.partition(date(2013, 1, 1)) / "part-00000.parquet").write_bytes(b"PAR1 and no end")
            die()
        return made

    def making(ctx: StageContext) -> Path:
        if moment == "before files":
            die()
        return files.fget(ctx)

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

    LakeTable.attempt = attempting
    StageContext.files = property(making)
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
        code, output = forked.run(_run_until, moment, asked, answer)
        return code, JobResult.model_validate_json(answer.read_text()) if code == 0 else None, output


def run_fresh(request: JobRequest) -> tuple[int, JobResult | None, str]:
    """Run a request as a compute does, in an interpreter that loads its engines itself; returns what the other does."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "response.json"
        asked.write_text(request.model_dump_json())
        command = [sys.executable, "-m", "airflow_ml.stages", str(asked), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        result = JobResult.model_validate_json(answer.read_text()) if done.returncode == 0 else None
        return done.returncode, result, done.stdout + done.stderr


def _run_until(moment: str, asked: Path, answer: Path) -> int:
    from airflow_ml.stages.__main__ import main

    install(moment)
    return main(asked, answer)
