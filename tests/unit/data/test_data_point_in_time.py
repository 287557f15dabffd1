"""Features know nothing that was not known at 00:00 of their day, and a bulk build is the nightly builds."""

import csv
import gzip
import io
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from airflow_ml.examples.flights.model import flights
from airflow_ml.examples.flights.world import World
from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.errors import BadTrainingSet, MissingPartition
from airflow_ml.lifecycle.requests import JobRequest, JobResult
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Platform
from airflow_ml.spec.training import Split
from airflow_ml.stages.runner import execute
from airflow_ml.stages.spark import java_home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DAYS = Window.of("2013-01-01", "2013-01-06")
NIGHT = date(2013, 1, 6)
OUTCOME_ONLY = {"cancelled", "departure", "arrival", "dep_delay", "arr_delay", "air_time"}


def run(base, stage: str, window: Window, model=flights):
    return execute(JobRequest(stage=stage, model=model, platform=Platform(base=str(base)), window=window))


def features(base, day: date) -> list[dict]:
    rows = LakeTable(base / "lake/flights/features").read(Window.of(day)).to_pylist()
    return sorted(rows, key=lambda row: row["flight_id"])


def invert_outcomes(base, day: date) -> None:
    """Every flight of a day that landed early is late now, and the other way round."""
    path = base / "landing" / "outcomes" / f"{day}.csv.gz"
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode())))
    for row in rows:
        if row["arr_delay"]:
            row["arr_delay"] = "0" if int(row["arr_delay"]) >= 15 else "90"
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


@pytest.fixture(scope="module")
def bulk(tmp_path_factory):
    """Six days, built in one job."""
    base = tmp_path_factory.mktemp("bulk")
    world = World(base / "landing")
    world.deliver(DAYS)
    world.deliver_outcomes(DAYS)
    run(base, "ingest", DAYS)
    run(base, "ingest_outcomes", DAYS)
    run(base, "features", DAYS)
    return base


@pytest.fixture
def rebuilt(bulk, tmp_path):
    """Build one night in a base of its own, after outcomes of some days were turned round."""

    def build(*inverted: date) -> list[dict]:
        for name in ("landing", "lake/flights/raw", "lake/flights/outcomes"):
            shutil.copytree(bulk / name, tmp_path / name)
        for day in inverted:
            invert_outcomes(tmp_path, day)
        if inverted:
            run(tmp_path, "ingest_outcomes", DAYS)
        run(tmp_path, "features", Window.of(NIGHT))
        return features(tmp_path, NIGHT)

    return build


def test_a_bulk_build_is_the_nightly_build_row_by_row(bulk, rebuilt):
    assert rebuilt() == features(bulk, NIGHT)


def test_no_feature_changes_with_outcomes_that_were_not_there_yet(bulk, rebuilt):
    """At 00:00 of `ds`, outcomes of `ds` and of `ds` − 1 have not landed."""
    assert rebuilt(date(2013, 1, 5), date(2013, 1, 6)) == features(bulk, NIGHT)


def test_features_do_change_with_the_newest_outcomes_that_were_there(bulk, rebuilt):
    """Shows that the test above can fail."""
    before = features(bulk, NIGHT)
    after = rebuilt(date(2013, 1, 4))
    changed = {name for old, new in zip(before, after, strict=True) for name in old if old[name] != new[name]}
    assert changed
    assert all(name.startswith("late_rate") for name in changed)


def test_spark_submit_runs_the_same_stage(bulk, tmp_path):
    for name in ("landing", "lake/flights/raw", "lake/flights/outcomes"):
        shutil.copytree(bulk / name, tmp_path / name)
    asked, answer = tmp_path / "request.json", tmp_path / "response.json"
    platform = Platform(base=str(tmp_path))
    request = JobRequest(stage="features", model=flights, platform=platform, window=Window.of(NIGHT))
    asked.write_text(request.model_dump_json())
    submit = Path(sys.executable).with_name("spark-submit")
    script = Path(__file__).parents[3] / "spark_jobs" / "features.py"
    command = [
        str(submit),
        "--master",
        "local[1]",
        "--conf",
        "spark.ui.enabled=false",
        str(script),
        str(asked),
        str(answer),
    ]
    environment = {**os.environ, "JAVA_HOME": java_home(), "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert JobResult.model_validate_json(answer.read_text()).rows == len(features(bulk, NIGHT))
    assert features(tmp_path, NIGHT) == features(bulk, NIGHT)


def test_nothing_of_the_outcome_is_in_the_schedule_file(bulk):
    header = gzip.decompress((bulk / "landing/schedule/2013-01-01.csv.gz").read_bytes()).decode().splitlines()[0]
    assert not OUTCOME_ONLY & set(header.split(","))


def test_the_world_delivers_the_same_bytes_again(bulk, tmp_path):
    World(tmp_path).deliver(Window.of("2013-01-03"))
    again = (tmp_path / "schedule/2013-01-03.csv.gz").read_bytes()
    assert again == (bulk / "landing/schedule/2013-01-03.csv.gz").read_bytes()


def test_cancelled_flights_have_no_label(bulk):
    outcomes = LakeTable(bulk / "lake/flights/outcomes").read(columns=["cancelled", "label"]).to_pylist()
    cancelled = [row for row in outcomes if row["cancelled"]]
    assert cancelled
    assert all(row["label"] is None for row in cancelled)


def small(**changes):
    split = Split(validation=1, test=1)
    training = flights.training.model_copy(update={"window": 6, "split": split, "min_labels": 100} | changes)
    return flights.model_copy(update={"training": training})


def test_a_training_set_is_split_by_time_and_counts_what_it_leaves_out(bulk):
    result = run(bulk, "training_set", DAYS, small())
    rows = result.summary["rows"]
    assert result.summary["days"]["train"][1] < result.summary["days"]["validation"][0] <= "2013-01-05"
    assert result.summary["days"]["test"] == ["2013-01-06", "2013-01-06"]
    labelled = LakeTable(bulk / "lake/flights/outcomes").read(columns=["label"])["label"].drop_null()
    assert sum(rows.values()) == len(labelled)
    assert result.summary["unlabelled"] > 0
    assert result.summary["pins"]["features"]["version"] == 1


def test_too_few_labels_are_refused(bulk):
    with pytest.raises(BadTrainingSet, match=r"1,?000,?000"):
        run(bulk, "training_set", DAYS, small(min_labels=1_000_000))


def test_a_window_without_features_is_refused(bulk):
    with pytest.raises(MissingPartition, match="airflow-ml run features"):
        run(bulk, "training_set", Window.of("2013-01-03", "2013-01-08"), small())


def test_one_class_is_refused(bulk, tmp_path):
    for name in ("landing", "lake"):
        shutil.copytree(bulk / name, tmp_path / name)
    for day in DAYS:
        path = tmp_path / "landing" / "outcomes" / f"{day}.csv.gz"
        rows = list(csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode())))
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"arr_delay": "0" if row["arr_delay"] else ""} for row in rows)
        path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    run(tmp_path, "ingest_outcomes", DAYS)
    with pytest.raises(BadTrainingSet, match="labels are negative"):
        run(tmp_path, "training_set", DAYS, small())
