"""An API server with too much to do (429), and one that has forgotten where a watch was (410): waiting goes on."""

import asyncio
import json
import threading
import time

import pytest

from airflow_ml.compute import wait
from airflow_ml.compute.exchange import read_response
from airflow_ml.compute.kubernetes.pods import KubernetesPods
from airflow_ml.lifecycle.requests import Coordinates
from tests.kubernetes.test_kubernetes_life import running
from tests.support.kube_cluster import fake_compute, until
from tests.support.kube_grumpy import grumpy


@pytest.fixture
def server(tmp_path, monkeypatch):
    with grumpy(tmp_path / "kubeconfig") as found:
        extra = {"kube_config_path": str(found.config)}
        monkeypatch.setenv("AIRFLOW_CONN_GRUMPY", json.dumps({"conn_type": "kubernetes", "extra": extra}))
        yield found


def test_submitting_and_waiting_survive_what_it_refuses(cluster, base, request_of, server):
    from airflow_ml.hooks.kubernetes import cluster as connected
    from airflow_ml.triggers.job import JobTrigger

    compute = KubernetesPods(fake_compute(cluster.namespace, base, conn_id="grumpy"), connected("grumpy"))

    def submitted(task):
        request = request_of(do="sleep", seconds=12)
        at = Coordinates(dag_id="d", task_id=task, run_id="r", task_instance=task)
        return compute.submit(request.model_copy(update={"coordinates": at}), {})

    server.refusals["too many"] = 3
    in_worker, in_trigger = submitted("worker"), submitted("trigger")
    assert server.refused["too many"] == 3, "submitting waits for its turn"
    results = []
    waiting = threading.Thread(target=lambda: results.append(wait(compute, in_worker, lambda line: None)))
    waiting.start()

    async def fire():
        # Each list of the watch is followed by two watches, of jobs and of pods.
        server.refusals.update({"gone": 2, "expired": 2})
        trigger = JobTrigger(in_trigger.model_dump(), compute.spec.model_dump(), time.time() + 120)
        task = asyncio.ensure_future(anext(trigger.run()))
        await asyncio.to_thread(until, lambda: server.refused["gone"] == server.refused["expired"] == 2)
        await asyncio.to_thread(until, running(cluster, 4))
        server.refusals["too many"] = 6
        await asyncio.to_thread(until, lambda: server.refused["too many"] == 9)
        return await asyncio.wait_for(task, 90)

    event = asyncio.run(fire())
    waiting.join(90)
    assert event.payload["status"] == "ended"
    assert read_response(in_trigger.folder).rows == 7
    assert [result.rows for result in results] == [7]
    assert len(cluster.jobs()) == 2, "nothing was submitted twice"
