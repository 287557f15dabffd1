"""Two weeks of real flights in a base, and one Spark for all tests of this folder."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_ml.examples.flights.model import flights
from airflow_ml.examples.flights.world import World
from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.requests import JobRequest, JobResult
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Features, Model, Platform, Split
from airflow_ml.stages.runner import execute
from airflow_ml.stages.spark import spark_session

TWO_WEEKS = Window.of("2013-01-01", "2013-01-14")

SHORT = flights.model_copy(
    update={
        "features": flights.features.model_copy(update={"history": 5}),
        "training": flights.training.model_copy(update={"split": Split(validation=2, test=2), "min_labels": 500}),
    }
)
"""The flights with a memory of five days, so that two weeks are more than one memory."""


INPUTS = ("raw", "validated", "outcomes")
"""Tables that the stage features reads."""


def built_by(function: str) -> Model:
    """The flights with one of the builds of the tests."""
    features = Features(
        build=f"tests.unit.data.builds:{function}",
        entity="flight_id",
        event_time="scheduled_departure",
        categorical=("carrier",),
        numeric=("miles",),
    )
    return SHORT.model_copy(update={"features": features, "slices": ("carrier", "origin")})


@dataclass
class Base:
    """A base folder, and stages that run in it."""

    path: Path
    model: Model = SHORT

    def request(self, stage: str, start: str, end: str | None = None, model: Model | None = None) -> JobRequest:
        platform = Platform(base=str(self.path))
        return JobRequest(stage=stage, model=model or self.model, platform=platform, window=Window.of(start, end))

    def run(self, stage: str, start: str, end: str | None = None, model: Model | None = None) -> JobResult:
        return execute(self.request(stage, start, end, model))

    def table(self, name: str) -> LakeTable:
        return LakeTable(self.path / "lake" / self.model.name / name)

    def copy(self, path: Path, *tables: str) -> "Base":
        """Another base with some of the tables, and no results."""
        for name in tables:
            shutil.copytree(self.table(name).path, path / "lake" / self.model.name / name)
        return Base(path, self.model)


@pytest.fixture(scope="package")
def spark():
    with spark_session("tests") as session:
        yield session


@pytest.fixture(scope="package")
def ingested(tmp_path_factory) -> Base:
    """Two weeks of validated raw partitions, and the outcomes that were known at the last midnight."""
    base = Base(tmp_path_factory.mktemp("ingested"))
    deliver(base, TWO_WEEKS)
    return base


@pytest.fixture(scope="package")
def built(ingested, spark, tmp_path_factory) -> Base:
    """The same with features, all built by one job, and all outcomes."""
    base = ingested.copy(tmp_path_factory.mktemp("built"), *INPUTS)
    base.run("features", str(TWO_WEEKS.start), str(TWO_WEEKS.end))
    return base


def deliver(base: Base, window: Window) -> None:
    """Deliver, ingest and validate a window and its known outcomes."""
    World(base.path / "landing").deliver(window)
    base.run("ingest", str(window.start), str(window.end))
    base.run("validate", str(window.start), str(window.end))
    deliver_outcomes(base, Window.of(window.start, window.end - timedelta(days=base.model.label.lag)))


def deliver_outcomes(base: Base, window: Window, change: Callable[[Path], None] = lambda path: None) -> None:
    """Deliver and ingest the outcomes of a window; ``change`` may tamper with the files before."""
    for path in World(base.path / "landing").deliver_outcomes(window):
        change(path)
    base.run("ingest_outcomes", str(window.start), str(window.end))
