"""Thousands of deferred tasks that wait for jobs of a real cluster, in one event loop. Needs KUBECONFIG.

KUBECONFIG=… python -m tests.bench waiting
"""

import asyncio
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from airflow_ml.compute.base import Handle, RemoteJob
from airflow_ml.compute.kubernetes.api import ClientApi, path_of
from airflow_ml.compute.kubernetes.names import JOB, OWNER, REQUEST
from airflow_ml.hooks.watch import JobWatch
from airflow_ml.triggers.job import JobTrigger
from tests.bench.report import Report, Table
from tests.support.kube_cluster import connect, namespace
from tests.support.kube_jobs import CASES, manifests_of

JOBS = int(os.environ.get("JOBS", "5000"))
ENDED = 200
TICK_S = 0.005
WATCHED_S = 60.0


def run() -> Report:
    if not os.environ.get("KUBECONFIG"):
        raise SystemExit("this bench needs a cluster: set KUBECONFIG")
    with namespace(ClientApi(connect)) as cluster, TemporaryDirectory() as folder:
        began = time.perf_counter()
        with ThreadPoolExecutor(8) as pool:
            handles = list(pool.map(lambda number: _create(cluster.namespace, folder, number), range(JOBS)))
        created_s = time.perf_counter() - began
        print(f"  {JOBS} suspended jobs after {created_s:.0f} s", flush=True)
        before = _rss_mib()
        found = asyncio.run(_wait(cluster.namespace, handles))
    found |= {"rss_before_mib": before, "created_s": round(created_s, 1)}
    rows = [
        ("event loop held up, p50", f"{found['stall_p50_ms']:.1f} ms", None),
        ("event loop held up, p99", f"{found['stall_p99_ms']:.1f} ms", "≤ 50 ms"),
        ("event loop held up, longest", f"{found['stall_max_ms']:.0f} ms", None),
        ("memory of the process", f"{found['rss_mib']:.0f} MiB", "≤ 1024 MiB"),
        ("notice of an end, p99", f"{found['notice_p99_s']:.2f} s", "≤ 3 s"),
        ("requests until all were listed", found["requests_listed"], None),
        (f"requests in {WATCHED_S:.0f} s of waiting", found["requests_waiting"], None),
    ]
    title = f"{JOBS:,} suspended jobs, a trigger each, one event loop"
    table = Table(title, ("what", "measured", "goal"), tuple(rows))
    notes = (f"{ENDED} of the jobs were deleted one after the other; a notice is the time until its trigger fired",)
    return Report("waiting", (table,), notes, found)


_OWN = threading.local()
"""A client is of one thread."""


def _create(space: str, folder: str, number: int) -> Handle:
    request = CASES["two_workers"]
    coordinates = request.coordinates.model_copy(update={"run_id": f"run-{number}"})  # type: ignore[union-attr]
    request = request.model_copy(update={"coordinates": coordinates})
    compute = request.platform.compute_for("train").model_copy(update={"namespace": space})
    job = manifests_of(request, compute).job  # type: ignore[arg-type]
    job["metadata"]["annotations"][REQUEST] = folder
    made = _api().call("POST", path_of(JOB.version, JOB.kind, space), None, job)["metadata"]
    ref = RemoteJob(namespace=space, name=made["name"], uid=made["uid"], owner=made["annotations"][OWNER])
    return Handle(kind="kubernetes", id=str(number), folder=folder, job=ref)


def _api() -> ClientApi:
    if not hasattr(_OWN, "api"):
        _OWN.api = ClientApi(connect)
    return _OWN.api  # type: ignore[no-any-return]


async def _wait(space: str, handles: list[Handle]) -> dict[str, Any]:
    compute = {"kind": "kubernetes", "namespace": space}
    deadline = time.time() + 3600
    ended: dict[str, float] = {}

    async def follow(handle: Handle) -> None:
        trigger = JobTrigger(handle.model_dump(), compute, deadline)
        async for _ in trigger.run():
            ended[handle.id] = time.perf_counter()

    stalls: list[float] = []

    async def tick() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(TICK_S)
            stalls.append(time.perf_counter() - began - TICK_S)

    ticking = asyncio.create_task(tick())
    tasks = [asyncio.create_task(follow(handle)) for handle in handles]
    while not (JobWatch._shared and all(w.listed.is_set() for w in JobWatch._shared.values())):
        await asyncio.sleep(0.1)
    (watch,) = JobWatch._shared.values()
    listed = watch.api.requests
    await asyncio.sleep(WATCHED_S)
    waiting = watch.api.requests - listed
    api = ClientApi(connect)
    notices: list[float] = []
    for handle in random.Random(1).sample(handles, ENDED):
        assert handle.job is not None
        path = path_of(JOB.version, JOB.kind, space, handle.job.name)
        began = time.perf_counter()
        await asyncio.to_thread(api.call, "DELETE", path, {"propagationPolicy": "Background"})
        while handle.id not in ended:
            await asyncio.sleep(0.002)
        notices.append(ended[handle.id] - began)
    rss = _rss_mib()
    for task in (ticking, *tasks):
        task.cancel()
    await asyncio.gather(ticking, *tasks, return_exceptions=True)
    stalls.sort()
    notices.sort()
    return {
        "stall_p50_ms": stalls[len(stalls) // 2] * 1000,
        "stall_p99_ms": stalls[int(len(stalls) * 0.99)] * 1000,
        "stall_max_ms": stalls[-1] * 1000,
        "notice_p50_s": notices[len(notices) // 2],
        "notice_p99_s": notices[int(len(notices) * 0.99)],
        "rss_mib": rss,
        "requests_listed": listed,
        "requests_waiting": waiting,
    }


def _rss_mib() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20
