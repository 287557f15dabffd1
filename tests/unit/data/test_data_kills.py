"""Kill −9 before and after each persisted step of a data stage: the retry ends as an undisturbed run does."""

import shutil
import signal
from pathlib import Path

import pytest

from airflow_ml.examples.flights.world import World
from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Platform
from airflow_ml.stages.runner import execute
from tests.support.killing import COMMIT_MOMENTS, run_in_process
from tests.support.plain_features import PLAIN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RAW = Window.of("2013-01-01", "2013-01-04")
KNOWN = Window.of("2013-01-01", "2013-01-02")
TABLES = {"ingest": "raw", "ingest_outcomes": "outcomes", "validate": "validated", "features": "features"}
READ = {"validate": ("raw",), "features": ("raw", "validated", "outcomes")}
"""Tables that must be there before a stage runs."""


def request(base: Path, stage: str) -> JobRequest:
    window = KNOWN if stage == "ingest_outcomes" else RAW
    return JobRequest(stage=stage, model=PLAIN, platform=Platform(base=str(base)), window=window)


def state(base: Path, stage: str) -> tuple[dict, list[dict]]:
    """Fences and rows of a stage's table."""
    table = LakeTable(base / "lake/flights" / TABLES[stage])
    rows = table.read().to_pylist()
    return table.fences(RAW), sorted(rows, key=str)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A base with everything that the stages read: landing files, raw and outcomes."""
    base = tmp_path_factory.mktemp("inputs")
    world = World(base / "landing")
    world.deliver(RAW)
    world.deliver_outcomes(KNOWN)
    for stage in ("ingest", "validate", "ingest_outcomes"):
        execute(request(base, stage))
    return base


@pytest.fixture(scope="module")
def undisturbed(inputs, spark, tmp_path_factory):
    """State after runs that nobody killed, by stage."""
    base = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(inputs, base, dirs_exist_ok=True)
    execute(request(base, "features"))
    return {stage: state(base, stage) for stage in TABLES}


@pytest.mark.parametrize("stage", TABLES)
def test_the_retry_of_a_killed_stage_ends_in_the_same_state(tmp_path, inputs, undisturbed, stage):
    """Killed at one step after the other, each time by a process that goes on from the last kill.

    After each kill a copy of the base gets the retry that nobody kills, in this process, whose Spark runs already.
    """
    base = tmp_path / "base"
    shutil.copytree(inputs / "landing", base / "landing")
    for table in READ.get(stage, ()):
        shutil.copytree(inputs / "lake/flights" / table, base / "lake/flights" / table)
    for moment in COMMIT_MOMENTS:
        code, _, output = run_in_process(request(base, stage), moment)
        assert code == -signal.SIGKILL, (moment, output)
        copy = tmp_path / moment
        shutil.copytree(base, copy)
        table = LakeTable(copy / "lake/flights" / TABLES[stage])
        landed = COMMIT_MOMENTS.index(moment) >= COMMIT_MOMENTS.index("after commit")
        assert (table.missing(request(copy, stage).window) == []) == landed, moment
        result = execute(request(copy, stage))
        assert state(copy, stage) == undisturbed[stage], moment
        assert table.snapshot().version == 1, f"killed {moment}: the table was created and committed once"
        assert result.reused == (moment == "after result")
