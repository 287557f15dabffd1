"""One model server, one export of each version, and a base of its own for each test."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from airflow_ml.serving.deployment import ModelConfigFile
from airflow_ml.serving.errors import ModelNotServed
from airflow_ml.serving.sandbox import RunningServer, model_server
from airflow_ml.spec import Platform
from tests.support.online import NAME
from tests.support.rollouts import Base, crown_first, graded, model, register

SHIFTED = 3
BROKEN = 4
SHIFTS = {2: 0.05, SHIFTED: 3.0}


@pytest.fixture(scope="package")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The champion, one like it, one with shifted scores, one that no server loads."""
    made = tmp_path_factory.mktemp("made")
    found = {version: graded(made / str(version), SHIFTS.get(version, 0.0)) for version in (1, 2, SHIFTED)}
    broken = made / "broken"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"not a graph")
    return found | {BROKEN: broken}


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, RunningServer]]:
    """A model server with nothing to serve yet."""
    with an_empty_server(tmp_path_factory.mktemp("serving")) as found:
        yield found


@pytest.fixture(scope="package")
def registered(tmp_path_factory: pytest.TempPathFactory, saved_models: dict[int, Path]) -> Path:
    """An MLflow database that knows the versions; making it takes seconds."""
    base = tmp_path_factory.mktemp("registered")
    register(Platform(base=str(base)), saved_models, SHIFTS)
    return base


@pytest.fixture
def base(
    tmp_path: Path, registered: Path, server: tuple[Path, RunningServer], saved_models: dict[int, Path]
) -> Iterator[Base]:
    """A base whose champion is version 1; the server is emptied afterwards."""
    for name in ("registry", "releases", "made"):
        shutil.copytree(registered / name, tmp_path / name)
    for record in (tmp_path / "releases" / NAME).glob("*.json"):
        record.write_text(record.read_text().replace(str(registered), str(tmp_path)))
    found = Base(model, Platform(base=str(tmp_path), serving=target_of(server)))
    with emptied(server):
        crown_first(found)
        yield found


def target_of(server: tuple[Path, RunningServer]) -> dict[str, str]:
    """As a platform names it."""
    folder, running = server
    return {
        "folder": str(folder),
        "grpc": running.grpc.removeprefix("grpc://"),
        "rest": running.rest.removeprefix("http://"),
    }


@contextmanager
def an_empty_server(folder: Path) -> Iterator[tuple[Path, RunningServer]]:
    """One with nothing to serve."""
    ModelConfigFile(folder).create()
    with model_server(folder) as running:
        yield folder, running


@contextmanager
def emptied(server: tuple[Path, RunningServer]) -> Iterator[None]:
    """Leave the server as it was."""
    folder, running = server
    try:
        yield
    finally:
        ModelConfigFile(folder).remove(NAME)
        with running.connect() as client, suppress(ModelNotServed):
            while any(status.state != "END" for status in client.status(NAME)):
                time.sleep(0.1)
        shutil.rmtree(folder / NAME, ignore_errors=True)
