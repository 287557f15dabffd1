"""Stages monitor and decide, killed at each of their persisted steps: the retry ends where an undisturbed run ends."""

from pathlib import Path

import pytest

from airflow_ml.stages.runner import execute
from tests.support.killing import COMMIT_MOMENTS, FILE_MOMENTS, run_in_process
from tests.unit.monitoring.conftest import WEEK, Watch, rows

pytestmark = pytest.mark.slow


def prepared(base: Path) -> Watch:
    """A drifted week of which the observation is made."""
    watch = Watch(base)
    watch.release()
    watch.week(rows(WEEK, seed=5, shift=1.0))
    return watch


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict:
    return prepared(tmp_path_factory.mktemp("undisturbed")).decide().summary


def facts(summary: dict) -> dict:
    """What a decision says, without where its evidence lies and what this attempt had to build."""
    return {name: value for name, value in summary.items() if name not in {"built", "current", "evidence"}}


@pytest.mark.parametrize("moment", COMMIT_MOMENTS)
def test_a_killed_decision_is_decided_once(tmp_path, undisturbed, moment):
    watch = prepared(tmp_path)
    watch.monitor()
    code, _, log = run_in_process(watch.request("decide", WEEK), moment)
    assert code == -9, log
    retried = execute(watch.request("decide", WEEK))
    assert facts(retried.summary) == facts(undisturbed)
    ledger = watch.table("decisions").read().to_pylist()
    assert len(ledger) == 1
    assert ledger[0]["run_id"] == "drift__2013-07-07"
    # The table is made, then the row: whoever committed it, it was committed once.
    assert watch.table("decisions").snapshot().version == 1
    assert execute(watch.request("decide", WEEK)).reused


@pytest.mark.parametrize("moment", FILE_MOMENTS)
def test_a_killed_observation_is_made_again_and_says_the_same(tmp_path, moment):
    watch = Watch(tmp_path)
    watch.release()
    watch.week(rows(WEEK, seed=5, per_day=20))  # too few to judge: no process here imports Evidently
    request = watch.request("monitor", WEEK)
    code, _, log = run_in_process(request, moment)
    assert code == -9, log
    retried = execute(request)
    assert retried.reused == (moment == "after result")
    assert retried.summary["data_drift"] == "not_judged"
    folder = Path(retried.uri).parent
    assert len(list(folder.glob("attempt-*"))) == 1
