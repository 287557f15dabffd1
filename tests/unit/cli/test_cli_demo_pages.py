"""MLflow's pages beside the demo: the links of its tasks lead to them."""

import json
import os
import urllib.request

import psutil
import pytest

from airflow_ml.examples.flights.demo import pages
from airflow_ml.examples.flights.demo.processes import Addresses, process, wait_until
from airflow_ml.registry.tracking import start_run
from airflow_ml.spec import Platform


def _get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as response:
        return response.read().decode()


@pytest.mark.slow
def test_the_pages_show_the_runs_of_the_base_and_end_with_the_demo(tmp_path):
    base, port = tmp_path / "base", Addresses.free(usual=False).mlflow
    url, log = f"http://127.0.0.1:{port}", tmp_path / "mlflow.log"

    def up() -> bool:
        try:
            return _get(f"{url}/health") == "OK"
        except OSError:
            return False

    with process("mlflow", pages.command(base, port), os.environ, log) as server:
        # As a training beside it would: both need tables that are not there yet.
        run = start_run(Platform(base=str(base)), "flights", "f" * 64)
        wait_until(up, server, "MLflow", log)
        assert "<title>MLflow</title>" in _get(url)
        found = json.loads(_get(f"{url}/api/2.0/mlflow/runs/get?run_id={run}"))
        assert found["run"]["info"]["run_id"] == run
        family = psutil.Process(server.pid).children(recursive=True)
        assert len(family) <= 2, [member.cmdline() for member in family]
    assert not [member for member in family if member.is_running()]
