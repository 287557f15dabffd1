"""However a task ends, its whole process tree ends, also children that ignore SIGTERM or have their own session."""

import contextlib
import gzip
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.dags.stubborn_user import TAG

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(420)]

CHILDREN = 2
GONE_WITHIN_S = 60
"""Airflow tells a task by its heartbeat (5 s) and escalates for some seconds; a lost one is found after 30 s here."""


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of every process that lives."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                found[int(entry.name)] = (
                    int(fields[1]),
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(),
                )
    return found


def stubborn(base: Path) -> set[int]:
    """The children, and the stage processes of this deployment's stubborn model."""
    folder = f"{base}/runs/stubborn/"
    return {pid for pid, (_, command) in processes().items() if f"'{TAG}'" in command or folder in command}


def until(true: Callable[[], object], what: str, timeout_s: float = GONE_WITHIN_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.5)


@pytest.fixture(scope="module", autouse=True)
def landed(deployment) -> None:
    """The stubborn model's one file, and DAGs that may run."""
    folder = deployment.base / "landing" / "stubborn"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "2013-01-01.csv.gz").write_bytes(gzip.compress(b"id,y\na,1\n"))
    for dag_id in ("stubborn", "stubborn_timeout", "stubborn_retried"):
        until(lambda dag_id=dag_id: dag_id in deployment.rest.dag_ids(), f"DAG {dag_id} is parsed", 120)
        deployment.rest.unpause(dag_id)


@pytest.fixture
def started(deployment) -> Iterator[Callable[[str], tuple[str, set[int]]]]:
    """Start a run; returns its id and the processes of its task, children included."""
    runs: list[tuple[str, str]] = []

    def start(dag_id: str) -> tuple[str, set[int]]:
        assert stubborn(deployment.base) == set(), "an earlier test left processes"
        run_id = deployment.rest.trigger(dag_id, {})
        runs.append((dag_id, run_id))
        until(lambda: _children() >= CHILDREN, "the children were started", 120)
        return run_id, stubborn(deployment.base)

    yield start
    for dag_id, run_id in runs:
        deployment.rest.call("PATCH", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}", {"state": "failed"})
    until(lambda: not stubborn(deployment.base), "the test's own processes ended")


def _children() -> int:
    return sum(f"'{TAG}'" in command for _, command in processes().values())


def runner_of(base: Path) -> tuple[int, int]:
    """The task runner of the stubborn stage, and its supervisor: parents of the reaper's guard."""
    table = processes()
    reapers = {pid for pid, (_, command) in table.items() if "reaper" in command and str(base) in command}
    runner = next(table[pid][0] for pid in reapers if table[pid][0] not in reapers)
    return runner, table[runner][0]


def test_marked_failed(deployment, started):
    run_id, pids = started("stubborn")
    path = f"/api/v2/dags/stubborn/dagRuns/{run_id}/taskInstances/ingest"
    deployment.rest.call("PATCH", path, {"new_state": "failed"})
    until(lambda: not pids & set(processes()), "every process of the task is gone")


def test_cleared(deployment, started):
    run_id, pids = started("stubborn")
    body = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["ingest"], "only_running": False, "only_failed": False}
    deployment.rest.call("POST", "/api/v2/dags/stubborn/clearTaskInstances", body)
    until(lambda: not pids & set(processes()), "every process of the first try is gone")
    until(lambda: _children() >= CHILDREN, "the next try runs")


def test_execution_timeout(deployment, started):
    run_id, pids = started("stubborn_timeout")
    until(lambda: not pids & set(processes()), "every process of the task is gone")
    assert deployment.rest.wait("stubborn_timeout", run_id, 120) == "failed"


def test_kill_9_of_the_task_runner(deployment, started):
    _, pids = started("stubborn")
    os.kill(runner_of(deployment.base)[0], signal.SIGKILL)
    until(lambda: not pids & set(processes()), "every process of the task is gone")


def test_kill_9_of_the_supervisor(deployment, started):
    _, pids = started("stubborn")
    os.kill(runner_of(deployment.base)[1], signal.SIGKILL)
    until(lambda: not pids & set(processes()), "every process of the task is gone")


def test_kill_9_of_the_scheduler_and_a_new_one(deployment, started):
    """Workers and tasks outlive a scheduler; the next one starts a new try, and the old one ends by its heartbeat."""
    _, pids = started("stubborn_retried")
    supervisor = runner_of(deployment.base)[1]
    table = processes()
    scheduler = table[supervisor][0]
    assert "scheduler" in table[scheduler][1]
    os.kill(scheduler, signal.SIGKILL)
    with (deployment.home / "second-scheduler.log").open("wb") as log:
        second = subprocess.Popen(
            [sys.executable, "-m", "airflow", "scheduler"],
            env=deployment.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(lambda: not pids & set(processes()), "every process of the first try is gone", 180)
        for run in deployment.rest.runs("stubborn_retried"):
            path = f"/api/v2/dags/stubborn_retried/dagRuns/{run['dag_run_id']}"
            deployment.rest.call("PATCH", path, {"state": "failed"})
        until(lambda: not stubborn(deployment.base), "the next try is gone as well", 120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(second.pid, signal.SIGTERM)
        time.sleep(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(second.pid, signal.SIGKILL)
        second.wait(timeout=20)
