"""An Airflow of the tests' own: its home is a temporary folder, set before anything imports Airflow."""

import atexit
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.mail import mail_server
from tests.support.models import small_model

if "airflow" in sys.modules:
    raise RuntimeError("Airflow was imported before its home was set: run tests/dags in a process of its own")

HOME = tempfile.mkdtemp(prefix="airflow-ml-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ |= {
    "AIRFLOW_HOME": HOME,
    "AIRFLOW__CORE__DAGS_FOLDER": f"{HOME}/dags",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
    "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
    "AIRFLOW__API__BASE_URL": "http://airflow.test",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "ann:viewer,eve:viewer",
    "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of the tests, long enough for its hash",
}

FAKE = Path(__file__).parents[1] / "unit" / "compute" / "fake_stages.py"
MODEL = small_model(end="2013-12-31")


@pytest.fixture(scope="session")
def airflow_db():
    """A migrated metadata database."""
    from airflow.utils.db import initdb

    initdb()
    return HOME


@pytest.fixture
def model():
    """A small model with data in 2013."""
    return MODEL


@pytest.fixture
def platform(tmp_path):
    """A base whose stages are the fake of the compute's tests; `script` says what they do."""
    from airflow_ml import Platform
    from airflow_ml.spec import LocalCompute

    python = tmp_path / "fakepython"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$3" "$4"\n')
    python.chmod(0o755)
    base = tmp_path / "base"
    base.mkdir()
    return Platform(base=str(base), compute=LocalCompute(python=str(python), grace_s=0.5))


@pytest.fixture
def script(platform):
    """Says what the fake does for each stage."""

    def write(**stages):
        (Path(platform.base) / "fake.json").write_text(json.dumps(stages))

    return write


@pytest.fixture
def requests_sent(platform, model):
    """The requests that were sent, by stage."""

    def read():
        folder = Path(platform.base) / "runs" / model.name / "requests"
        found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/request.json"), key=os.path.getmtime)]
        return {request["stage"]: request for request in found}

    return read


@pytest.fixture(scope="session")
def register_dag(airflow_db):
    """Make a DAG known to the database, as the DAG processor does."""
    from airflow.dag_processing.collection import update_dag_parsing_results_in_db
    from airflow.models.dagbundle import DagBundleModel
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session

    def register(dag):
        with create_session() as session:
            if session.get(DagBundleModel, "tests") is None:
                session.add(DagBundleModel(name="tests"))
                session.flush()
            dag.relative_fileloc = "tests.py"
            parsed = [LazyDeserializedDAG.from_dag(dag)]
            update_dag_parsing_results_in_db("tests", None, parsed, {}, None, set(), session=session)

    return register


@pytest.fixture
def run_dag(register_dag):
    """Run a DAG in this process, as `airflow dags test` does; returns its run and the states of its tasks."""

    def run(dag, **kwargs):
        register_dag(dag)
        run_ = dag.test(**kwargs)
        return run_, {ti.task_id: ti.state for ti in run_.get_task_instances()}

    return run


@pytest.fixture
def mailbox(monkeypatch):
    """A mail server on loopback, and an Airflow connection to it."""
    with mail_server() as box:
        monkeypatch.setenv("AIRFLOW_CONN_MAIL", box.connection)
        yield box


@pytest.fixture
def alerting(platform):
    """The platform, with somebody to tell."""
    from airflow_ml.spec import Alerts

    return platform.model_copy(
        update={"alerts": Alerts(smtp_conn_id="mail", to=("ml@example.com",), sender="af@example.com")}
    )


@pytest.fixture
def committed(platform, model):
    """Commit partitions to a table of the model, as stages do."""
    from datetime import date

    import pyarrow as pa
    import pyarrow.parquet as pq

    from airflow_ml.lake import LakeTable
    from airflow_ml.lifecycle.fingerprints import fingerprint

    def commit(table, *days):
        lake = LakeTable(Path(platform.base) / "lake" / model.name / table)
        schema = pa.schema([("id", pa.int64())])
        attempt = lake.attempt()
        dates = [date.fromisoformat(day) for day in days]
        for day in dates:
            pq.write_table(pa.table({"id": [1]}, schema), attempt.partition(day) / "part.parquet")
        return lake.commit(attempt, {day: fingerprint(str(day)) for day in dates}, schema)

    return commit


@pytest.fixture(scope="session")
def client(airflow_db):
    """The API server with the plugin, as Airflow builds it."""
    from airflow.api_fastapi.app import create_app
    from fastapi.testclient import TestClient

    with TestClient(create_app(apps="core"), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def token(client):
    """Makes tokens of users with a role."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    def make(role):
        return get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="ann", role=role))

    return make
