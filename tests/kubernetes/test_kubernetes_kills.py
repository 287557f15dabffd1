"""A corner of the kill matrix: three trials side by side in one real Airflow; ``kill_matrix`` makes all of them."""

import os

import pytest

from tests.kubernetes.kill_matrix import MOMENTS, VICTIMS, matrix, play, table, trials

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CELLS = (("pod 0", "checkpoint"), ("Airflow worker", "mid-epoch"), ("triggerer", "start"))


def test_nothing_is_lost_doubled_or_left_over(tmp_path):
    if not os.environ.get("AIRFLOW_ML_TEST_KIT"):
        pytest.skip("the processes of the pods cannot be counted: set AIRFLOW_ML_TEST_KIT")
    with matrix(tmp_path / "kills", stand_in=True) as made:
        done = play(made, trials(1, CELLS))
    assert len(done) == len(CELLS)
    assert not [trial for trial in done if trial.faults], done
    assert "3 trials: 0 lost, 0 doubled, 0 orphans." in table(done)


def test_every_victim_is_killed_at_every_moment():
    made = trials(2)
    assert len(made) == 60
    assert len({trial.run_id for trial in made}) == 60
    cells = {(victim, moment) for victim in VICTIMS for moment in MOMENTS}
    assert {(trial.victim, trial.moment) for trial in made} == cells
