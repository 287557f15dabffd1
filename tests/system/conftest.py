"""One real Airflow (scheduler, triggerer, DAG processor, API server), model server and mail server for the folder.

The loop is played once in it; what it leaves (two versions, scored nights) is what the other tests go on with.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest

from airflow_ml.examples.flights.demo.calendar import Calendar
from airflow_ml.examples.flights.demo.loop import Loop
from airflow_ml.examples.flights.demo.processes import Addresses, airflow_environment, process, wait_until
from airflow_ml.examples.flights.demo.rest import AirflowRest
from airflow_ml.lifecycle.windows import Window
from tests.support.mail import Mailbox, mail_server

DAYS = Calendar(
    history=Window.of("2013-01-01", "2013-02-14"),
    nights=Window.of("2013-02-15", "2013-02-17"),
    watched=(date(2013, 2, 17),),
    after=2,
)


@dataclass(frozen=True)
class Deployment:
    """A running deployment."""

    rest: AirflowRest
    environment: dict[str, str]
    base: Path
    addresses: Addresses
    home: Path


@pytest.fixture(scope="package")
def mailbox() -> Iterator[Mailbox]:
    """Where the deployment's alerts arrive."""
    with mail_server() as box:
        yield box


@pytest.fixture(scope="package")
def deployment(tmp_path_factory, mailbox) -> Iterator[Deployment]:
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
        "AIRFLOW__AIRFLOW_ML__SMTP_CONN_ID": "mail",
        "AIRFLOW__AIRFLOW_ML__ALERTS_TO": "oncall@example.com",
        "AIRFLOW_CONN_MAIL": mailbox.connection,
        "AIRFLOW_CONN_TF_SERVING_DEFAULT": json.dumps(
            {"conn_type": "tf_serving", "host": "127.0.0.1", "port": addresses.grpc}
        ),
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


@pytest.fixture(scope="package")
def loop(deployment) -> Loop:
    """The loop, played once."""
    from tests.system.dags.small_flights import small

    played = Loop(
        deployment.rest,
        deployment.environment,
        deployment.base,
        f"127.0.0.1:{deployment.addresses.rest}",
        calendar=DAYS,
        model=small,
    )
    played.play()
    return played
