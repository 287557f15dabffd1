"""The same training as two processes of this machine and as two pods, and where the difference goes. Needs KUBECONFIG.

KUBECONFIG=… AIRFLOW_ML_TEST_IMAGE=… python -m tests.bench pods

Every moment is read off a clock where it happens: in the ranks (`tests.bench.moments`), in answers of the API server,
and in this process, which submits and waits as a worker does. With pods on other machines, clocks have to agree.
"""

import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_ml.compute import Compute, LocalProcess, wait
from airflow_ml.compute.kubernetes.api import ClientApi, path_of
from airflow_ml.compute.kubernetes.names import JOB, Engine
from airflow_ml.compute.kubernetes.pods import KubernetesPods
from airflow_ml.lifecycle.protocol import RESPONSE
from airflow_ml.lifecycle.requests import Coordinates, JobRequest
from tests.bench.moments import FOLDER
from tests.bench.report import Report, Table, median
from tests.support.kube_cluster import connect, namespace, real_compute
from tests.unit.training.conftest import model, requested, write_splits

ROWS = 60_000
ROUNDS = 3
WORKERS = 2
PARAMS = {"epochs": 6, "batch_size": 512, "hidden": [64]}
POD = Engine("v1", "Pod")
_LOOK_S = 0.02
_MET = re.compile(r"met in ([0-9.]+) s")

PHASES = (
    ("submit", "asked", "created"),
    ("schedule", "created", "scheduled"),
    ("pull, start the containers", "scheduled", "began"),
    ("import, connect", "began", "told"),
    ("rendezvous", "told", "met"),
    ("prepare", "met", "first_step"),
    ("train", "first_step", "last_step"),
    ("collect", "last_step", "written"),
    ("seen by the worker", "written", "seen"),
    ("all of it", "asked", "seen"),
)
"""Each with the moments that it begins and ends at."""

Moments = dict[str, float]


def run() -> Report:
    if not os.environ.get("KUBECONFIG"):
        raise SystemExit("this bench needs a cluster: set KUBECONFIG")
    if not os.environ.get("AIRFLOW_ML_TEST_IMAGE"):
        raise SystemExit("this bench needs an image that runs this machine's environment: set AIRFLOW_ML_TEST_IMAGE")
    folder = Path(tempfile.mkdtemp(prefix="airflow-ml-bench-"))
    try:
        with namespace(ClientApi(connect)) as cluster:
            return _report(_measured(folder, cluster.namespace))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measured(folder: Path, space: str) -> dict[str, list[Moments]]:
    splits, base = folder / "splits", folder / "base"
    write_splits(splits, ROWS, group_rows=2048)
    pods = KubernetesPods(real_compute(space, base, splits), ClientApi(connect))
    # The first one makes the registry of the base, which is no part of a training.
    _train(LocalProcess(), _request(splits, base, 0, {"epochs": 1}))
    found: dict[str, list[Moments]] = {"local": [], "pods": []}
    for number in range(1, ROUNDS + 1):
        found["local"].append(_train(LocalProcess(), _request(splits, base, number)))
        with _watched(space) as seen:
            moments = _train(pods, _request(splits, base, ROUNDS + number))
        found["pods"].append(moments | {"created": min(seen["jobs"].values()), "scheduled": max(seen["pods"].values())})
        print("  round", number, {name: round(_wall(each[-1]), 1) for name, each in found.items()}, flush=True)
    return found


def _request(splits: Path, base: Path, number: int, changed: dict[str, Any] | None = None) -> JobRequest:
    """The same training under another fingerprint: the patience is of no consequence."""
    params = {**PARAMS, "patience": 100 + number, **(changed or {})}
    declared = model(workers=WORKERS, fit="tests.bench.moments:fit", params=params)
    at = Coordinates(dag_id="bench", task_id="train", run_id=str(number), task_instance=str(number))
    return requested(splits, base, "train", declared, coordinates=at)


def _train(compute: Compute, request: JobRequest) -> Moments:
    """Submit and wait, as a worker does; when things happened, in seconds since the epoch."""
    lines: list[str] = []
    asked = time.time()
    handle = compute.submit(request, {})
    created = time.time()
    result = wait(compute, handle, lines.append)
    seen = time.time()
    noted = [
        json.loads(path.read_text()) for path in sorted((Path(result.uri).parent / "state" / FOLDER).glob("*.json"))
    ]
    first = noted[0]
    return {
        "asked": asked,
        "created": created,
        # A process of this machine is where it runs at once.
        "scheduled": created,
        "began": max(each["began"] for each in noted),
        "told": max(each["told"] for each in noted),
        "met": first["fit"],
        "first_step": first["first_step"],
        "last_step": first["last_step"],
        "written": (Path(handle.folder) / RESPONSE).stat().st_mtime,
        "seen": seen,
        "init_s": float(next(found[1] for line in lines if (found := _MET.search(line)))),
    }


@contextmanager
def _watched(space: str) -> Iterator[dict[str, dict[str, float]]]:
    """When the job that is submitted next is there, and when its pods have a node, by name: looked at every 20 ms."""
    api, paths = ClientApi(connect), {kind: path_of(kind.version, kind.kind, space) for kind in (JOB, POD)}

    def names(kind: Engine) -> set[str]:
        return {
            each["metadata"]["name"]
            for each in api.call("GET", paths[kind])["items"] or ()
            if kind is JOB or each["spec"].get("nodeName")
        }

    before = {kind: names(kind) for kind in paths}
    seen: dict[str, dict[str, float]] = {"jobs": {}, "pods": {}}
    over = threading.Event()

    def look() -> None:
        while len(seen["pods"]) < WORKERS and not over.wait(_LOOK_S):
            for kind, found in zip(paths, seen.values(), strict=True):
                for name in names(kind) - before[kind]:
                    found.setdefault(name, time.time())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()


def _wall(moments: Moments) -> float:
    return moments["seen"] - moments["asked"]


def _report(found: dict[str, list[Moments]]) -> Report:
    rows = []
    for name, begin, end in PHASES:
        local, pods = (median([each[end] - each[begin] for each in found[kind]]) for kind in ("local", "pods"))
        rows.append((name, local, pods, pods - local))
    table = Table(
        "The same training as two processes and as two pods, seconds",
        ("phase", "local", "pods", "difference"),
        tuple(rows),
    )
    trained = f"{ROWS * 7 // 10:,} rows, {PARAMS['epochs']} epochs in batches of {PARAMS['batch_size']}"
    init_s = max(each["init_s"] for each in found["pods"])
    notes = (
        f"{trained}, two ranks of one thread; medians of {ROUNDS} rounds, phase by phase: they need not add up",
        "a pod has one core; its image was on the node, so nothing was pulled",
        "rendezvous in pods: from when the coordinator has all of them until rank 0 is in fit (goal: ≤ 2 s)",
        f"of which hvd.init() took {init_s:.2f} s at most; local ranks import in that time, those of pods before",
    )
    return Report("pods", (table,), notes, found)
