"""The search for parameters: real jobs under the local compute, which train nothing, and a real study in a database."""

import itertools
import json
import sqlite3
from pathlib import Path

import pytest

from airflow_ml import Horovod, Platform, Tune, between, one_of
from airflow_ml.compute import LocalProcess
from airflow_ml.compute.search import STUDIES, Search
from airflow_ml.lifecycle.errors import JobFailed, SpecError, TrainingFailed
from airflow_ml.lifecycle.requests import JobRequest, JobResult
from airflow_ml.lifecycle.windows import Window
from tests.support.models import small_model

SEARCH = {"learning_rate": between(0.001, 1.0, log=True), "hidden": one_of([8], [16, 8])}
WINDOW = Window.of("2013-01-01", "2013-03-31")


@pytest.fixture
def searching(tmp_path, monkeypatch):
    """Makes a search over jobs that answer by their parameters: `tests.support.trial_job`."""
    made = tmp_path / "training_set.json"
    facts = {"stage": "training_set", "model": "small", "fingerprint": "f", "spec_hash": "s", "code_version": "1"}
    made.write_text(JobResult(**facts).model_dump_json())
    monkeypatch.setenv("TRIALS", str(tmp_path / "trials"))
    (tmp_path / "trials").mkdir()

    def make(secrets=None, clock=None, training=None, **tune):
        request = JobRequest(
            stage="tune",
            model=small_model(tune=Tune(**{"search": SEARCH, **tune}), **({"training": training} if training else {})),
            platform=Platform(base=str(tmp_path / "base")),
            window=WINDOW,
            inputs={"training_set": str(made)},
        )
        told = []
        extra = {"clock": clock} if clock else {}
        search = Search(request, LocalProcess(module="tests.support.trial_job"), secrets or {}, told.append, **extra)
        search.told = told
        return search

    make.begun = lambda: sorted(path.name for path in (tmp_path / "trials").iterdir())
    make.base = tmp_path / "base"
    return make


def test_the_best_of_all_trials_is_found_and_more_trials_go_on_with_the_study(searching):
    found = searching(trials=4, prune=False).run()
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 4
    best = min(found["trials"], key=lambda trial: trial["value"])
    assert found["best"] == best["number"]
    assert best["params"]["hidden"] in ([8], [16, 8])
    assert best["mlflow_run_id"] == f"run-{best['number']}"
    more = searching(trials=6, prune=False).run()
    assert more["study"] == found["study"]
    assert more["trials"][:4] == found["trials"]
    assert len(searching.begun()) == 6
    # Nothing is left to be done.
    assert searching(trials=6, prune=False).run() == more
    assert len(searching.begun()) == 6
    # Another search is another study.
    other = searching(trials=1, search={"learning_rate": between(0.1, 1.0)}).run()
    assert other["study"] != found["study"]


def test_a_search_that_was_killed_submits_its_unfinished_trials_again(searching):
    search = searching(trials=2, parallel=2, search={"sleep_s": between(0.0, 0.001), "rate": between(1, 9)})

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    search.compute.pause = killed
    with pytest.raises(Killed):
        search.run()
    assert search.compute._running == {}, "no job outlives the search"
    found = searching(trials=2, search={"sleep_s": between(0.0, 0.001), "rate": between(1, 9)}).run()
    assert [trial["number"] for trial in found["trials"]] == [0, 1]
    assert len(found["trials"]) == 2


def test_who_asks_a_search_to_end_ends_its_jobs_and_leaves_its_study(searching):
    search = searching(trials=9, search={"sleep_s": between(0.0, 0.001)})
    pause = search.compute.pause

    def stop(handle, seconds):
        # As a signal handler does, in the middle of the wait.
        search.cancel(wait=False)
        pause(handle, seconds)

    search.compute.pause = stop
    with pytest.raises(JobFailed, match="the search was ended"):
        search.run()
    assert len(searching.begun()) <= 1
    found = searching(trials=1, search={"sleep_s": between(0.0, 0.001)}).run()
    assert [trial["state"] for trial in found["trials"]] == ["complete"]


def test_a_trial_that_is_worse_than_most_is_ended_early(searching):
    search = searching(trials=4, search={"worse": between(0, 1)})
    # Four good ones are what the fifth is compared with.
    study = search._study()
    for _ in range(4):
        study.enqueue_trial({"worse": 0})
    assert {trial["state"] for trial in search.run()["trials"]} == {"complete"}
    study.enqueue_trial({"worse": 1})
    search = searching(trials=5, search={"worse": between(0, 1)})
    pruned = search.run()["trials"][4]
    assert pruned["state"] == "pruned"
    assert pruned["mlflow_run_id"] == "run-4"
    # It would have reported thirty epochs.
    assert 1 <= pruned["epochs"] < 30
    assert search.told[-1] == "trial 4 is worse than most: ended"


def test_a_budget_of_hours_ends_the_search_and_its_jobs(searching):
    clock = itertools.count(step=4000).__next__
    search = searching(trials=50, hours=3.0, clock=clock, prune=False, search={"sleep_s": between(0.0, 0.001)})
    with pytest.raises(TrainingFailed, match="no trial came to an end"):
        search.run()
    assert search.told[-1] == "the search ends: its 3 hours are over"
    assert search.running == []


def test_a_budget_of_gpu_hours_counts_what_trials_took(searching):
    search = searching(trials=50, gpu_hours=1.0, prune=False)
    found = search.run()
    # Each says that it took 0.4.
    assert [trial["gpu_hours"] for trial in found["trials"]] == [0.4] * 3
    assert search.told[-1] == "the search ends: its 1 GPU-hours are used up"


def test_a_budget_of_gpu_hours_ends_a_trial_that_takes_too_long(searching):
    told = {"trials": 9, "gpu_hours": 30.0, "prune": False, "search": {"sleep_s": between(0.0, 0.001)}}
    training = Horovod(workers=2, gpus_per_worker=2)
    # Each look at the clock is ten hours later, and a trial has four GPUs.
    search = searching(clock=itertools.count(step=36_000).__next__, training=training, **told)
    with pytest.raises(TrainingFailed, match="no trial came to an end"):
        search.run()
    assert search.told[-1] == "the search ends: its 30 GPU-hours are used up"
    assert search.running == []
    # What it has taken is not given a second time.
    again = searching(training=training, **told)
    with pytest.raises(TrainingFailed, match="no trial came to an end"):
        again.run()
    assert len(searching.begun()) <= 1


def test_a_declaration_that_no_trial_survives_is_the_error(searching):
    search = searching(trials=20, search={"broken": between(0, 1)})
    with pytest.raises(SpecError, match="there is no such parameter"):
        search.run()
    assert len(searching.begun()) == 3


def test_the_study_lies_below_the_base_or_where_a_secret_says(searching, tmp_path):
    searching(trials=1).run()
    assert (searching.base / "tuning" / "small.db").exists()
    elsewhere = tmp_path / "elsewhere.db"
    found = searching({STUDIES: f"sqlite:///{elsewhere}"}, trials=1).run()
    with sqlite3.connect(elsewhere) as database:
        assert database.execute("select study_name from studies").fetchall() == [(found["study"],)]
    requests = list((searching.base / "runs").glob("*/requests/*/request.json"))
    assert len(requests) == 2
    assert not any("elsewhere" in path.read_text() for path in requests)
    assert json.loads(Path(requests[0]).read_text())["coordinates"]["task_id"] == "tune.trial"


@pytest.mark.parametrize(
    ("tune", "said"),
    [
        ({"search": {}}, "search"),
        ({"search": SEARCH, "trials": 0}, "trials"),
        ({"search": SEARCH, "hours": 0}, "hours"),
        ({"search": {"x": {"low": 2, "high": 1}}}, "is not below high"),
        ({"search": {"x": {"low": 0, "high": 1, "log": True}}}, "has no logarithm"),
    ],
)
def test_a_bad_search_is_refused(tune, said):
    with pytest.raises(ValueError, match=said):
        Tune(**tune)
