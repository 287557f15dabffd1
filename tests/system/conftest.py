"""One real Airflow (scheduler, triggerer, DAG processor, API server) and one model server for the whole folder."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from airflow_ml.examples.flights.demo.processes import Addresses, airflow_environment, process, wait_until
from airflow_ml.examples.flights.demo.rest import AirflowRest


@dataclass(frozen=True)
class Deployment:
    """A running deployment."""

    rest: AirflowRest
    environment: dict[str, str]
    base: Path
    addresses: Addresses
    home: Path


@pytest.fixture(scope="session")
def deployment(tmp_path_factory) -> Iterator[Deployment]:
    """Started once; ended with every process that it started."""
    root = tmp_path_factory.mktemp("deployment")
    home, base = root / "airflow", root / "base"
    home.mkdir()
    base.mkdir()
    (home / "passwords.json").write_text(json.dumps({"admin": "test"}))
    addresses = Addresses.free(usual=False)
    environment = airflow_environment(home, base, Path(__file__).parent / "dags", addresses)
    environment |= {
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        # A scheduler that died is noticed, and its tasks looked after, within seconds instead of minutes.
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    }
    python = sys.executable
    with (
        process("model server", [python, "-m", "airflow_ml.cli", "serve"], environment, root / "server.log"),
        process("airflow", [python, "-m", "airflow", "standalone"], environment, root / "airflow.log") as airflow,
    ):
        rest = AirflowRest(f"http://127.0.0.1:{addresses.airflow}", "admin", "test")
        wait_until(rest.healthy, airflow, "Airflow", root / "airflow.log")
        wait_until(lambda: "flights_release" in rest.dag_ids(), airflow, "the DAG processor", root / "airflow.log")
        assert rest.import_errors() == []
        yield Deployment(rest, environment, base, addresses, home)
