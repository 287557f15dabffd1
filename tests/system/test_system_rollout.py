"""A release by REST: a person approves it, a triggerer dies while it is a canary, and it comes to all traffic."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from airflow_ml.examples.flights.demo.processes import process
from airflow_ml.spec import Platform
from tests.support.released import reissue

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(420)]

ROOT = Path(__file__).resolve().parents[2]
DAG = "small_release"
ANSWERABLE_S = 6.0
"""Airflow 3.3 may fail a task that is resumed within seconds (apache/airflow #71580), and with it the answer."""


def until(true: Callable[[], object], what: str, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.5)


class Run:
    """One run of the release DAG."""

    def __init__(self, deployment, **conf):
        self.rest = deployment.rest
        self.id = deployment.rest.trigger(DAG, conf)
        self.path = f"/api/v2/dags/{DAG}/dagRuns/{quote(self.id, safe='')}"

    def task(self, task_id):
        return self.rest.call("GET", f"{self.path}/taskInstances/{task_id}")

    def wait(self, task_id, state):
        until(lambda: self.task(task_id)["state"] == state, f"{task_id} is {state}")

    def asked(self, method="GET", body=None):
        return self.rest.call(method, f"{self.path}/taskInstances/approve/-1/hitlDetails", body)

    def end(self):
        self.rest.call("PATCH", self.path, {"state": "failed"})


@pytest.fixture(scope="module")
def released(deployment, tmp_path_factory):
    """Version 1 has all traffic, version 2 is registered."""
    command = [sys.executable, "-m", "tests.system.rolled_out", str(tmp_path_factory.mktemp("made"))]
    done = subprocess.run(
        command, env=deployment.environment | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for dag_id in (DAG, "small_ask"):
        until(lambda dag_id=dag_id: dag_id in deployment.rest.dag_ids(), f"DAG {dag_id} is parsed", 120)
        deployment.rest.unpause(dag_id)
    return deployment.base / "releases" / "small"


def _read(path: Path):
    return json.loads(path.read_text())


def _triggerers(deployment) -> list[int]:
    """Processes of this deployment's triggerer, and of no other Airflow."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            mine = f"AIRFLOW_HOME={deployment.home}\0".encode() in (entry / "environ").read_bytes() + b"\0"
        except OSError:
            continue
        if "triggerer" in command and mine:
            found.append(int(entry.name))
    return found


def test_a_release_is_approved_rolled_out_and_kept_though_its_triggerer_dies(released, deployment):
    run = Run(deployment, version=2, by="ann", reason="the test asks for it")
    run.wait("approve", "awaiting_input")
    asked = run.asked()
    assert asked["subject"] == "Release small version 2?"
    for fact in (
        "| Gate | Decision |",
        "Version 1 is champion",
        f"/airflow-ml/releases/{DAG}/small/2",
        "it is rejected",
    ):
        assert fact in asked["body"]
    time.sleep(ANSWERABLE_S)
    run.asked("PATCH", {"chosen_options": ["Approve"], "params_input": {"why": "seen it", "approver": "Ben"}})

    run.wait("rollout", "deferred")
    (answer,) = _read(released / "approvals.json")["answers"]
    assert (answer["option"], answer["by"], answer["user"], answer["why"]) == ("approve", "Ben", "admin", "seen it")
    rollout = _read(released / "rollout.json")["rollout"]
    assert (rollout["state"], rollout["version"], rollout["by"]) == ("canary", 2, "ann")
    (arm,) = _read(released / "routing.json")["routing"]["arms"]
    assert (arm["version"], arm["weight"]) == (2, 0.5)

    for pid in _triggerers(deployment):
        os.kill(pid, signal.SIGKILL)
    with process(
        "triggerer", [sys.executable, "-m", "airflow", "triggerer"], deployment.environment,
        deployment.home / "second-triggerer.log",
    ):  # fmt: skip
        # By another run: the first one sees it wherever it waits. Nobody is asked about the same report again.
        hurried = Run(deployment, version=2, mode="at_once", by="ann", reason="enough seen")
        assert deployment.rest.wait(DAG, hurried.id, 120) == "success"
        assert deployment.rest.wait(DAG, run.id, 120) == "success"
    rollout = _read(released / "rollout.json")["rollout"]
    assert (rollout["state"], rollout["version"]) == ("kept", 2)
    assert _read(released / "champions.json")["champions"][-1]["version"] == 2
    assert deployment.rest.run(DAG, run.id)["note"].endswith("small version 2: kept: the test asks for it")

    rows = [{"carrier": "AA", "hour": hour, "distance": 100, "wind": None} for hour in (0, 12, 23)]
    asking = deployment.rest.trigger("small_ask", {"version": 2, "rows": rows})
    assert deployment.rest.wait("small_ask", asking, 90) == "success"
    answers = deployment.rest.call(
        "GET", f"/api/v2/dags/small_ask/dagRuns/{quote(asking, safe='')}/taskInstances/predict/xcomEntries/return_value"
    )["value"]
    answers = json.loads(answers) if isinstance(answers, str) else answers
    assert [answer["model_version"] for answer in answers] == [2, 2, 2]
    assert [answer["probability"] for answer in answers] == pytest.approx(
        [1 / (1 + math.exp(-((hour - 12) / 4 + 0.1))) for hour in (0, 12, 23)], abs=1e-5
    )

    again = {"dry_run": False, "dag_run_id": run.id, "task_ids": ["approve"], "only_failed": False}
    deployment.rest.call("POST", f"/api/v2/dags/{DAG}/clearTaskInstances", again)
    tried = run.task("approve")["try_number"]
    until(lambda: run.task("approve")["state"] == "success" and run.task("approve")["try_number"] >= tried, "a retry")
    assert len(_read(released / "approvals.json")["answers"]) == 1, "it was not asked again"

    reissue(Platform(base=str(deployment.base)), "small", 2)
    changed = Run(deployment, version=2)
    changed.wait("approve", "awaiting_input")
    changed.end()
