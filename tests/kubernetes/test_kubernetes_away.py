"""An API server that is killed, stays away, and comes back grumpy: whoever waits for a job goes on waiting.

The real one does it: it is killed by signal 9, and when it is back it no longer knows whose token it is shown (401).
"""

import asyncio
import json
import logging
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from airflow_ml.compute import wait
from airflow_ml.compute.exchange import read_response
from airflow_ml.compute.kubernetes.pods import KubernetesPods
from airflow_ml.lifecycle.requests import Coordinates
from tests.kubernetes.test_kubernetes_life import running
from tests.support.kube_account import Account
from tests.support.kube_cluster import fake_compute, until

AWAY_S = float(os.environ.get("AIRFLOW_ML_TEST_AWAY_S", "8"))


@pytest.fixture
def server():
    """The API server's process, and what starts it again."""
    kit = os.environ.get("AIRFLOW_ML_TEST_KIT")
    if not kit:
        pytest.skip("no API server that may be killed: set AIRFLOW_ML_TEST_KIT")
    lab = Path(os.environ["KUBECONFIG"]).parent
    yield lambda: int((lab / "run" / "kube-apiserver.pid").read_text().split()[0])
    subprocess.run([f"{kit}/up"], check=True, capture_output=True, timeout=120)


@pytest.fixture
def account(cluster, tmp_path, monkeypatch):
    """An account with a token, and an Airflow connection that reads it from a file."""
    made = Account(cluster, tmp_path)
    extra = {"kube_config_path": str(made.config)}
    monkeypatch.setenv("AIRFLOW_CONN_ACCOUNT", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    return made


@pytest.fixture
def heard(monkeypatch):
    """What the watch logs; Airflow's logging goes one way or the other, as it was set up."""
    records, log, handler = [], logging.getLogger("airflow_ml.hooks.watch"), logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    monkeypatch.setattr(log, "level", logging.INFO)
    log.addHandler(handler)
    yield records
    log.removeHandler(handler)


@pytest.mark.usefixtures("image_pods")  # which work meanwhile
def test_the_worker_and_the_trigger_go_on_waiting(cluster, base, request_of, server, account, heard):
    from airflow_ml.hooks.kubernetes import cluster as connected
    from airflow_ml.hooks.watch import JobWatch
    from airflow_ml.triggers.job import JobTrigger

    class Trigger(JobTrigger):
        """Keeps what it tells."""

        def _tell(self, line, passwords):
            told.append(line)

    compute = KubernetesPods(fake_compute(cluster.namespace, base, conn_id="account"), connected("account"))

    def submitted(task):
        request = request_of(do="sleep", seconds=AWAY_S + 12)
        at = Coordinates(dag_id="d", task_id=task, run_id="r", task_instance=task)
        return compute.submit(request.model_copy(update={"coordinates": at}), {})

    def refused(status):
        return [record for record in heard if f" {status} " in record.getMessage()]

    in_worker, in_trigger = submitted("worker"), submitted("trigger")
    lines, told, results = [], [], []
    waiting = threading.Thread(target=lambda: results.append(wait(compute, in_worker, lines.append)))
    waiting.start()
    until(running(cluster, 4))

    def grumble():
        """What happens to the server and to the account, one after the other."""
        account.expire()
        os.kill(server(), signal.SIGKILL)
        time.sleep(AWAY_S)
        up = [f"{os.environ['AIRFLOW_ML_TEST_KIT']}/up"]
        subprocess.run(up, check=True, capture_output=True, timeout=120)
        until(lambda: refused(401))
        account.renew()

    async def fire():
        trigger = Trigger(in_trigger.model_dump(), compute.spec.model_dump(), time.time() + 600)
        task = asyncio.ensure_future(anext(trigger.run()))
        # It looks at the job before the server goes.
        ref = in_trigger.job
        await asyncio.to_thread(
            until, lambda: any(watch.job(ref.name, ref.uid) for watch in list(JobWatch._shared.values()))
        )
        await asyncio.to_thread(grumble)
        return await asyncio.wait_for(task, 120)

    event = asyncio.run(fire())
    waiting.join(120)
    assert event.payload["status"] == "ended"
    assert read_response(in_trigger.folder).rows == 7
    assert [result.rows for result in results] == [7]
    for said in (lines, told):
        assert [line for line in said if "is waited for" in line], said
        assert "INFO the API server is back" in said, said
