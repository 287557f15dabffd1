"""The replayed year: what an upstream delivers, and that nothing of the outcome is delivered before it happened."""

import csv
import gzip
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from airflow_ml.examples.flights.model import OUTCOMES, SCHEDULE
from airflow_ml.examples.flights.world import World, _data_folder
from airflow_ml.lifecycle.errors import InputError
from airflow_ml.lifecycle.windows import Window

DAYS = Window.of("2013-03-09", "2013-03-11")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("landing"))


def read(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def the_year():
    with zipfile.ZipFile(_data_folder() / "flights.csv.zip") as archive:
        text = archive.read("flights.csv").decode()
    return list(csv.DictReader(text.splitlines()))


def test_the_same_day_is_the_same_bytes_in_whatever_window_it_comes(world, tmp_path):
    first = {path.name: path.read_bytes() for path in world.deliver(DAYS)}
    other = World(tmp_path)
    alone = [other.deliver(Window.of(day))[0] for day in DAYS]
    assert {path.name: path.read_bytes() for path in alone} == first
    assert {path.name: path.read_bytes() for path in world.deliver(DAYS)} == first
    assert not list(world.landing.rglob(".*")), "no temporary file is left"


def test_the_files_have_the_declared_columns(world):
    for path in world.deliver(DAYS):
        assert tuple(read(path)[0]) == SCHEDULE.names
    for path in world.deliver_outcomes(DAYS):
        assert tuple(read(path)[0]) == OUTCOMES.names


def test_nothing_of_the_outcome_is_in_the_schedule(world):
    outcome = {"cancelled", "departure", "arrival", "dep_delay", "arr_delay", "air_time"}
    assert not outcome & set(SCHEDULE.names)
    assert outcome < set(OUTCOMES.names)


def test_every_flight_of_a_day_is_delivered_with_its_outcome(world):
    day = DAYS.start
    scheduled = {row["flight_id"]: row for row in read(world.deliver(Window.of(day))[0])}
    outcomes = {row["flight_id"]: row for row in read(world.deliver_outcomes(Window.of(day))[0])}
    assert scheduled.keys() == outcomes.keys()
    flown = [row for row in the_year() if (int(row["month"]), int(row["day"])) == (day.month, day.day)]
    assert len(flown) == len(scheduled)
    for row in flown:
        clock = f"{int(row['sched_dep_time']):04d}"
        id_ = f"{day:%Y%m%d}-{row['carrier']}-{row['flight']}-{row['origin']}-{clock}"
        assert scheduled[id_]["dest"] == row["dest"]
        delay = row["arr_delay"] if row["arr_delay"] != "NA" else ""
        assert outcomes[id_]["arr_delay"] == (str(int(float(delay))) if delay else "")
        assert outcomes[id_]["cancelled"] == str(row["dep_time"] in ("", "NA")).lower()


def test_scheduled_minutes_are_those_between_two_clocks_of_different_zones(world):
    """Air time is shorter than the schedule allows for, and never by half a day."""
    scheduled = {
        row["flight_id"]: int(row["scheduled_minutes"])
        for day in DAYS
        for row in read(world.deliver(Window.of(day))[0])
    }
    spare = [
        scheduled[row["flight_id"]] - int(row["air_time"])
        for day in DAYS
        for row in read(world.deliver_outcomes(Window.of(day))[0])
        if row["air_time"]
    ]
    # One of the days is the one on which New York changed its clocks, and Phoenix, Honolulu and San Juan did not.
    assert len(spare) > 2000
    assert min(spare) > -60
    assert max(spare) < 120


def test_days_that_the_data_does_not_have_are_refused(world):
    with pytest.raises(InputError, match="2014-01-01 is not inside"):
        world.deliver(Window.of("2014-01-01"))


def test_the_command_line_delivers_outcomes_a_day_late(tmp_path):
    command = [sys.executable, "-m", "airflow_ml.examples.flights.world", str(tmp_path), "--from", "2013-01-01"]
    subprocess.run([*command, "--to", "2013-01-03"], check=True, capture_output=True, timeout=120)
    found = {
        folder: sorted(path.name[:10] for path in (tmp_path / folder).iterdir()) for folder in ("schedule", "outcomes")
    }
    assert found["schedule"] == ["2013-01-01", "2013-01-02", "2013-01-03"]
    assert found["outcomes"] == ["2013-01-01", "2013-01-02"]


def test_the_declaration_imports_no_engine():
    heavy = ("torch", "pyspark", "airflow", "polars", "pandas", "pyarrow", "deltalake")
    code = f"import sys, airflow_ml.examples.flights.model; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"
