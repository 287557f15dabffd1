"""`airflow-ml demo`: starts an Airflow and a model server, plays the loop, shows the summary, and leaves the UI up."""

import fcntl
import json
import secrets
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import airflow_ml
from airflow_ml.examples.flights.demo import pages
from airflow_ml.examples.flights.demo.loop import Loop
from airflow_ml.examples.flights.demo.pods import computes
from airflow_ml.examples.flights.demo.processes import Addresses, airflow_environment, process, tail, wait_until
from airflow_ml.examples.flights.demo.rest import AirflowRest
from airflow_ml.examples.flights.demo.summary import StageTime, Summary, find_problems, render
from airflow_ml.lifecycle.errors import AirflowMLError, JobFailed

ROOT = Path("build/demo")
DAGS = {f"flights_{name}" for name in ("data", "training", "scoring", "monitoring", "release")}


def run_demo(leave_running: bool, root: Path = ROOT, pods: bool = False) -> int:
    """Play the loop from an empty base.

    Args:
        leave_running: Stay up after the summary until Ctrl-C.
        root: Everything is written below it; what an earlier demo left there is removed.
        pods: Train in pods of a cluster instead of processes of this machine.

    Returns:
        Exit code: 1 when anything in the loop did not happen.
    """
    try:
        with _only_one(root.resolve()):
            return _run(leave_running, root.resolve(), pods)
    except AirflowMLError as error:
        print(f"{error}", file=sys.stderr)
        return 1


@contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """Keep a second demo from removing the files of one that runs.

    The lock lies beside the folder, because the folder is removed; it ends with the process, however that ends.

    Raises:
        JobFailed: A demo runs there.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with (root.parent / f".{root.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JobFailed(
                "a demo runs here already", where=str(root), remedy="end it by Ctrl-C, then start this one again"
            ) from error
        yield


def _run(leave_running: bool, root: Path, pods: bool) -> int:
    shutil.rmtree(root, ignore_errors=True)
    home, base = root / "airflow", root / "base"
    base.mkdir(parents=True)
    home.mkdir(parents=True)
    password = secrets.token_urlsafe(9)
    (home / "passwords.json").write_text(json.dumps({"admin": password}))
    addresses = Addresses.free()
    environment = airflow_environment(home, base, _dags_folder(root), addresses)
    mlflow_ui = f"http://127.0.0.1:{addresses.mlflow}"
    environment["AIRFLOW__AIRFLOW_ML__REGISTRY_UI"] = mlflow_ui
    if pods:
        environment["AIRFLOW__AIRFLOW_ML__COMPUTES"] = computes(base)
    # SIGTERM ends the demo as Ctrl-C does: through the `finally` that ends what it started.
    signal.signal(signal.SIGTERM, _interrupt)
    summary = Summary(problems=["the loop was not played to its end"])
    began = time.monotonic()
    python = sys.executable
    # Nobody waits for MLflow's pages: while they start, the loop goes first.
    asked_last = ["nice", "-n", "10", *pages.command(base, addresses.mlflow)]
    try:
        with (
            process(
                "model server", [python, "-m", "airflow_ml.cli", "serve"], environment, root / "server.log"
            ) as server,
            process("airflow", [python, "-m", "airflow", "standalone"], environment, root / "airflow.log") as airflow,
            process("mlflow", asked_last, environment, root / "mlflow.log") as mlflow,
        ):
            rest = AirflowRest(f"http://127.0.0.1:{addresses.airflow}", "admin", password)
            print(f"== starting Airflow at {rest.url} (log: {root / 'airflow.log'})", flush=True)
            wait_until(lambda: _serving(addresses.rest), server, "the model server", root / "server.log")
            wait_until(rest.healthy, airflow, "Airflow", root / "airflow.log")
            wait_until(lambda: rest.dag_ids() >= DAGS, airflow, "the DAG processor", root / "airflow.log")
            started_s = round(time.monotonic() - began, 1)
            print(f"   ready after {started_s:.0f} s; log in as admin / {password}", flush=True)
            loop = Loop(rest, environment, base, f"127.0.0.1:{addresses.rest}", say=_say)
            try:
                loop.play()
            except (AirflowMLError, OSError) as error:  # an HTTP error is an OSError; the summary is shown all the same
                loop.summary.problems.append(str(error))
            summary = loop.summary
            nights = len(loop.calendar.nights) + (loop.calendar.after if loop.summary.retraining else 0)
            summary.problems += find_problems(summary, nights)
            summary.wall_s = round(time.monotonic() - began, 1)
            summary.stages.insert(0, StageTime("start Airflow", started_s, 0))
            summary.stages.append(StageTime("between tasks", summary.idle_s(started_s), 0))
            summary.write(root / "summary.json")
            print(render(summary))
            print(f"the UI: {rest.url}  (admin / {password})\nthe same as JSON: {root / 'summary.json'}", flush=True)
            # Links of the tasks lead there; the loop itself does without.
            told = mlflow_ui if mlflow.poll() is None else f"ended: {tail(root / 'mlflow.log')}"
            print(f"MLflow's pages: {told}", flush=True)
            if leave_running:
                print("Ctrl-C ends it, with everything that it started.", flush=True)
                while airflow.poll() is None:
                    time.sleep(1)
                print(f"Airflow ended: {tail(root / 'airflow.log')}")
    except KeyboardInterrupt:
        print("\nstopping", flush=True)
    return 1 if summary.problems else 0


def _say(line: str) -> None:
    print(line, flush=True)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _serving(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/flights", timeout=2):
            return True
    except urllib.error.HTTPError:
        return True  # it answers that there is no such model yet
    except OSError:
        return False


def _dags_folder(root: Path) -> Path:
    """The repository's ``dags/``; a package that was installed without one gets the same few lines."""
    here = Path(airflow_ml.__file__).parent.parent / "dags"
    if here.is_dir():
        return here
    folder = root / "dags"
    folder.mkdir(parents=True)
    (folder / "flights_dags.py").write_text(
        "from airflow_ml.examples.flights.model import flights\n"
        "from airflow_ml.pipelines import model_dags\n\n"
        "globals().update(model_dags(flights))\n"
    )
    return folder
