"""Overhead: one run of the DAG ``flights_training`` in a real Airflow against its stages in one process.

Both train the first model of the example from the same tables, each in a base without results and beside a model
server of its own, so both roll it out: as a model's first, at once and without a look at live requests. Airflow is
`airflow standalone` as the demo starts it; its time is that of the DAG run, from start to end. The one process runs the
same stages one after another; its time includes starting it and importing what they need, once, where Airflow starts a
process a stage.
"""

import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_ml.examples.flights.demo.processes import Addresses, airflow_environment, process, wait_until
from airflow_ml.examples.flights.demo.rest import AirflowRest, TaskRow
from airflow_ml.examples.flights.model import flights
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Platform, ServingTarget
from airflow_ml.stages.rollout import run_until_ended
from airflow_ml.stages.runner import execute
from tests.bench.base import fresh_base
from tests.bench.report import Report, Table

ROOT = Path(__file__).parents[2]
WINDOW = Window.ending(Window.of("2013-07-29").end, flights.training.window)
DAG_ID = f"{flights.name}_training"
TASKS = {
    "training_set": "build_training_set",
    "train": "train",
    "evaluate": "evaluate",
    "export": "export",
    "gates": "check_gates",
    "register": "register",
    "rollout": "rollout",
}
"""Stage to the task that runs it, in order."""
TIMEOUT_S = 3600


@dataclass(frozen=True)
class Place:
    """A base with a model server at work.

    Attributes:
        base: The base folder.
        addresses: Of the server, and of the Airflow that may be started.
        environment: For both.
    """

    base: Path
    addresses: Addresses
    environment: Mapping[str, str]


def run() -> Report:
    """The one process first: it leaves warm file caches to Airflow, as any second run would find them."""
    alone = _in_one_process()
    print(f"  in one process: {alone['wall_s']:.0f} s", flush=True)
    airflow = _in_airflow()
    print(f"  in Airflow: {airflow['wall_s']:.0f} s", flush=True)
    ratio = airflow["wall_s"] / alone["wall_s"]
    stages = [(stage, alone["stages"][stage], airflow["tasks"].get(task)) for stage, task in TASKS.items()]
    between = airflow["wall_s"] - sum(airflow["tasks"].values())
    started = alone["wall_s"] - sum(alone["stages"].values())
    table = Table(
        "The training DAG against its stages in one process, seconds (goal: ratio ≤ 1.25)",
        ("stage", "one process", "Airflow"),
        (
            *stages,
            ("start; in Airflow between tasks", started, between),
            ("whole run", alone["wall_s"], airflow["wall_s"]),
            ("ratio", None, ratio),
        ),
    )
    notes = (
        f"training window {WINDOW}; Airflow standalone, SQLite, parallelism 4, LocalExecutor, a process a stage",
        f"verdict in one process {alone['verdict']}, in Airflow {airflow['verdict']}",
    )
    return Report("overhead", (table,), notes, {"one_process": alone, "airflow": airflow, "ratio": ratio})


@contextmanager
def _place() -> Iterator[Place]:
    """A fresh base and a model server on it."""
    with fresh_base() as base:
        addresses = Addresses.free()
        home = base / "airflow"
        home.mkdir()
        environment = airflow_environment(home, base, ROOT / "dags", addresses)
        serve = [sys.executable, "-m", "airflow_ml.cli", "serve"]
        log = base / "server.log"
        with process("model server", serve, environment, log) as server:
            wait_until(lambda: _answers(addresses.rest), server, "the model server", log)
            yield Place(base, addresses, environment)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _in_one_process() -> dict[str, Any]:
    """Seconds of a process that runs every stage, and of each stage."""
    with _place() as place:
        code = (
            "from tests.bench.overhead import stages; "
            f"stages({str(place.base)!r}, {place.addresses.grpc}, {place.addresses.rest})"
        )
        began = time.perf_counter()
        with (place.base / "stages.log").open("wb") as log:
            done = subprocess.run(
                [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=log, check=False, cwd=ROOT
            )
        wall = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError((place.base / "stages.log").read_text(errors="replace")[-3000:])
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return {"wall_s": wall, **answer}


def stages(base: str, grpc: int, rest: int) -> None:
    """Run every stage here; print what they took."""
    serving = ServingTarget(grpc=f"127.0.0.1:{grpc}", rest=f"127.0.0.1:{rest}")
    platform = Platform(base=base, serving=serving)
    log = logging.getLogger(__name__)
    seconds: dict[str, float] = {}
    verdict = ""
    for stage in TASKS:
        began = time.perf_counter()
        request = JobRequest(stage=stage, model=flights, platform=platform, window=WINDOW)
        if stage != "rollout":
            result = execute(request)
        elif verdict == "passed":
            run_until_ended(request, log.info)
        if stage == "gates":
            verdict = str(result.summary["verdict"])
        seconds[stage] = time.perf_counter() - began
    print(json.dumps({"stages": seconds, "verdict": verdict}))


def _in_airflow() -> dict[str, Any]:
    """Seconds of a DAG run in an Airflow that is up, and of each of its tasks."""
    with _place() as place:
        home = place.base / "airflow"
        (home / "passwords.json").write_text(json.dumps({"admin": "bench"}))
        rest = AirflowRest(f"http://127.0.0.1:{place.addresses.airflow}", "admin", "bench")
        log = place.base / "airflow.log"
        command = [sys.executable, "-m", "airflow", "standalone"]
        with process("airflow", command, place.environment, log) as airflow:
            wait_until(rest.healthy, airflow, "Airflow", log)
            wait_until(lambda: DAG_ID in rest.dag_ids(), airflow, "the DAG processor", log)
            rest.unpause(DAG_ID)
            rows: list[TaskRow] = []
            run_id = rest.trigger(DAG_ID, {"from": str(WINDOW.start), "to": str(WINDOW.end)})
            state = rest.wait(DAG_ID, run_id, TIMEOUT_S, rows.append)
            found = rest.run(DAG_ID, run_id)
            if state != "success":
                failed = [row.task_id for row in rows if row.state == "failed"]
                raise RuntimeError(f"the DAG run failed: {failed}; its base is gone, run the demo to look at it")
            verdict = rest.result(DAG_ID, run_id, TASKS["gates"]).get("summary", {}).get("verdict")
        started, ended = (datetime.fromisoformat(found[key]) for key in ("start_date", "end_date"))
        tasks = {row.task_id: row.duration or 0.0 for row in rows if row.task_id in TASKS.values()}
        return {"wall_s": (ended - started).total_seconds(), "tasks": tasks, "verdict": verdict}
