"""Who owns a model's name in a base, and which days it has."""

import json
import multiprocessing
from pathlib import Path

import pytest

from airflow_ml import Features, Platform
from airflow_ml.lifecycle.errors import NameTaken, SpecError
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.lifecycle.windows import Window
from airflow_ml.stages.context import StageContext
from airflow_ml.stages.workspace import claim_name
from tests.support.models import small_model


def built_by(build: str, declared_in: str):
    features = Features(build=build, entity="id", event_time="at", numeric=("x",))
    return small_model(features=features, declared_in=declared_in)


def test_two_files_of_one_module_name_are_told_apart_by_what_builds_their_features(tmp_path):
    claim_name(tmp_path, built_by("one:build", "__main__"))
    claim_name(tmp_path, built_by("one:build", "__main__"))
    with pytest.raises(NameTaken, match=r"another '__main__'.*'one:build'.*'two:build'.*Remedy: give one"):
        claim_name(tmp_path, built_by("two:build", "__main__"))


def test_a_module_of_a_package_may_change_what_builds_its_features(tmp_path):
    claim_name(tmp_path, built_by("one:build", "project.model"))
    claim_name(tmp_path, built_by("two:build", "project.model"))


def test_a_record_of_before_is_still_right(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/small.json").write_text(json.dumps({"declared_in": "__main__"}))
    claim_name(tmp_path, built_by("one:build", "__main__"))
    with pytest.raises(NameTaken):
        claim_name(tmp_path, built_by("one:build", "other"))


def _claim(base: str, declared_in: str, together, answers) -> None:
    model = built_by("one:build", declared_in)
    together.wait()
    try:
        claim_name(Path(base), model)
        answers.put((declared_in, True))
    except NameTaken:
        answers.put((declared_in, False))


def test_of_models_that_claim_a_name_at_once_one_gets_it(tmp_path):
    spawn = multiprocessing.get_context("fork")
    for turn in range(5):
        base, together, answers = tmp_path / str(turn), spawn.Barrier(4), spawn.Queue()
        racers = [spawn.Process(target=_claim, args=(str(base), f"p.m{n}", together, answers)) for n in range(4)]
        for racer in racers:
            racer.start()
        found = dict(answers.get(timeout=30) for _ in racers)
        for racer in racers:
            racer.join()
        owner = json.loads((base / "models/small.json").read_text())["declared_in"]
        assert [name for name, got in found.items() if got] == [owner]


@pytest.mark.parametrize(
    ("start", "end"), [("2012-12-31", "2013-01-02"), ("2013-12-31", "2014-01-01"), ("2014-01-01", "2014-01-01")]
)
def test_days_that_the_model_does_not_have_are_refused(tmp_path, start, end):
    request = JobRequest(
        stage="ingest",
        model=small_model(end="2013-12-31"),
        platform=Platform(base=str(tmp_path)),
        window=Window.of(start, end),
    )
    with pytest.raises(SpecError, match=r"no such partitions.*small has 2013-01-01 to 2013-12-31.*Remedy: choose days"):
        _ = StageContext(request).window


def test_the_first_and_the_last_day_are_there(tmp_path):
    whole = Window.of("2013-01-01", "2013-12-31")
    model, platform = small_model(end="2013-12-31"), Platform(base=str(tmp_path))
    assert StageContext(JobRequest(stage="ingest", model=model, platform=platform, window=whole)).window == whole
