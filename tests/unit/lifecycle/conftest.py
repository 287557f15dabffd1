"""What the tests of registering, releasing and scoring share: an MLflow schema, and a model that is exported once."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from airflow_ml.registry.client import client_of
from airflow_ml.serving.deployment import ModelConfigFile
from airflow_ml.serving.errors import ModelNotServed
from airflow_ml.serving.sandbox import RunningServer, model_server
from airflow_ml.spec import Platform
from tests.support.finished import Finished, finish_training


@pytest.fixture(scope="package")
def mlflow_schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs: making one takes seconds, copying it none."""
    base = tmp_path_factory.mktemp("schema")
    client_of(Platform(base=str(base)))
    return base / "registry" / "mlflow.db"


@pytest.fixture(scope="package")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A training that is finished and exported."""
    done = finish_training(tmp_path_factory.mktemp("exported"))
    done.run("export")
    return done


@pytest.fixture
def base(tmp_path: Path, mlflow_schema: Path) -> Path:
    """A base whose registry needs no migration."""
    (tmp_path / "registry").mkdir()
    shutil.copyfile(mlflow_schema, tmp_path / "registry" / "mlflow.db")
    return tmp_path


@pytest.fixture
def done(base: Path, exported: Finished) -> Finished:
    """The exported training in a base of its own."""
    return Finished(exported.model, Platform(base=str(base)), dict(exported.inputs))


@dataclass
class Served:
    """A serving base with its server; bases of tests release into it under models of one name."""

    folder: Path
    server: RunningServer

    def platform(self, base: Path) -> Platform:
        target = {
            "folder": str(self.folder),
            "grpc": self.server.grpc.removeprefix("grpc://"),
            "rest": self.server.rest.removeprefix("http://"),
        }
        return Platform(base=str(base), serving=target)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A running model server with nothing to serve yet."""
    folder = tmp_path_factory.mktemp("serving")
    ModelConfigFile(folder).create()
    with model_server(folder) as server:
        yield Served(folder, server)


@pytest.fixture
def serving(base: Path, exported: Finished, served: Served) -> Iterator[Finished]:
    """The exported training on a platform with a running server, which is emptied afterwards."""
    yield Finished(exported.model, served.platform(base), dict(exported.inputs))
    ModelConfigFile(served.folder).remove(exported.model.name)
    with served.server.connect() as client, contextlib.suppress(ModelNotServed):
        while any(status.state != "END" for status in client.status(exported.model.name)):
            time.sleep(0.2)
    shutil.rmtree(served.folder / exported.model.name, ignore_errors=True)
