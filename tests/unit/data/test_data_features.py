"""Features: known at the time, the same in bulk and by night, and held to their contract."""

import gzip
import math
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from airflow_ml.examples.flights.features import PRIOR_FLIGHTS
from airflow_ml.examples.flights.world import World
from airflow_ml.lifecycle.errors import DataBroken, MissingPartition, SpecError
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import in_range
from airflow_ml.stages.runner import find
from tests.unit.data.conftest import INPUTS, SHORT, TWO_WEEKS, Base, built_by, deliver_outcomes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LAG, HISTORY = SHORT.label.lag, SHORT.features.history


def rows(base: Base, day: date) -> list[dict]:
    """A partition in the order of its file."""
    return base.table("features").read(Window.of(day)).to_pylist()


@pytest.mark.parametrize("day", [date(2013, 1, 1), date(2013, 1, 9), date(2013, 1, 14)])
def test_a_night_builds_exactly_the_rows_of_the_bulk_job(built, spark, tmp_path, day):
    alone = built.copy(tmp_path, *INPUTS)
    alone.run("features", str(day))
    # Row by row, in the same order, with the same bits: NaN would compare unequal to itself.
    assert rows(alone, day) == rows(built, day)


def make_late(path: Path) -> None:
    """Every flight of a file of outcomes arrives an hour late."""
    header, *lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    column = header.split(",").index("arr_delay")
    changed = [line.split(",") for line in lines]
    for fields in changed:
        fields[column] = fields[column] and "60"
    text = "\n".join([header, *(",".join(fields) for fields in changed)]) + "\n"
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def test_no_feature_of_a_day_knows_outcomes_of_the_day_before_or_later(ingested, built, spark, tmp_path):
    day = date(2013, 1, 8)
    other = ingested.copy(tmp_path, *INPUTS)
    deliver_outcomes(other, Window.of(day - timedelta(days=1), TWO_WEEKS.end - timedelta(days=LAG)), make_late)
    other.run("features", str(TWO_WEEKS.start), str(TWO_WEEKS.end))
    for known in Window.of(TWO_WEEKS.start, day):
        assert rows(other, known) == rows(built, known), known
    for later in Window.of(day + timedelta(days=1), TWO_WEEKS.end):
        assert rows(other, later) != rows(built, later), later


def test_a_later_outcome_leaves_a_night_current_and_an_earlier_one_does_not(built, spark, tmp_path):
    base = built.copy(tmp_path, *INPUTS, "features")
    assert base.run("features", "2013-01-14").summary["built"] == []
    table = base.table("outcomes")
    before = table.fences(Window.of("2013-01-01", "2013-01-14"))
    assert before[date(2013, 1, 12)] is not None
    assert before[date(2013, 1, 13)] is None
    deliver_outcomes(base, Window.of("2013-01-13"))
    assert base.run("features", "2013-01-14").summary["built"] == []
    night = base.request("features", "2013-01-14")
    assert find(night) is not None
    deliver_outcomes(base, Window.of("2013-01-12"), make_late)
    assert find(night) is None


def test_features_are_what_their_names_say(built):
    """Against a plain count of the rows, for one day."""
    day = date(2013, 1, 12)
    found = built.table("features").read(Window.of(day)).to_pandas().set_index("flight_id")
    raw = built.table("raw").read(Window.of(day)).to_pandas().set_index("flight_id").loc[found.index]
    outcomes = built.table("outcomes").read().to_pandas()
    outcomes = outcomes[outcomes["label"].notna()].assign(hour=lambda o: o["scheduled_departure"].dt.strftime("%H"))
    age = (pd.Timestamp(day) - pd.to_datetime(outcomes["ds"])).dt.days
    month = outcomes[(age >= LAG) & (age < LAG + HISTORY)]
    newest = outcomes[age == LAG]
    overall = month["label"].astype(int).mean()
    raw["hour"] = raw["scheduled_departure"].dt.strftime("%H")

    def alike(row, keys):
        same = month
        for key in keys:
            same = same[same[key] == row[key]]
        late = same["label"].astype(int).sum()
        return (late + PRIOR_FLIGHTS * overall) / (len(same) + PRIOR_FLIGHTS)

    for id_, row in raw.iloc[::37].iterrows():
        got = found.loc[id_]
        assert got["late_rate_all"] == pytest.approx(overall, rel=1e-12)
        assert got["late_rate_carrier"] == pytest.approx(alike(row, ["carrier"]), rel=1e-12)
        assert got["late_rate_origin_hour"] == pytest.approx(alike(row, ["origin", "hour"]), rel=1e-12)
        assert got["late_rate_flight"] == pytest.approx(alike(row, ["carrier", "flight"]), rel=1e-12)
        if row["tailnum"] is not None:
            assert got["late_rate_aircraft"] == pytest.approx(alike(row, ["tailnum"]), rel=1e-12)
        of_origin = newest[newest["origin"] == row["origin"]]["label"].astype(int)
        assert got["late_rate_newest_origin"] == pytest.approx(of_origin.mean(), rel=1e-12)
        same = raw[raw["origin"] == row["origin"]]
        assert got["congestion"] == (same["hour"] == row["hour"]).sum()
        assert got["departures_before"] == (same["hour"] < row["hour"]).sum()
        so_far = same[same["hour"] <= row["hour"]].groupby("hour")
        assert got["precip_before"] == pytest.approx(so_far["precip"].max().sum(), abs=1e-9)
        assert got["visib_lowest_before"] == so_far["visib"].min().min()
        assert got["hour"] == row["hour"]
        assert got["weekday"] == "Sat"
        if not math.isnan(row["plane_year"]):
            assert got["aircraft_age"] == 2013 - row["plane_year"]


def test_the_first_days_have_no_late_rate_and_no_invented_one(built):
    for day in (date(2013, 1, 1), date(2013, 1, 2)):
        table = built.table("features").read(Window.of(day))
        assert table["late_rate_all"].null_count == table["late_rate_carrier"].null_count == len(table)
    assert built.table("features").read(Window.of("2013-01-03"))["late_rate_carrier"].null_count == 0


def test_rows_lie_in_one_file_a_day_in_order_of_departure(built):
    files = built.table("features").files(TWO_WEEKS)
    assert len(files) == len(TWO_WEEKS)
    assert not list(built.table("features").path.rglob("*.crc"))
    keys = [(row["scheduled_departure"], row["flight_id"]) for row in rows(built, date(2013, 1, 9))]
    assert all(one < other for one, other in pairwise(keys))


def test_a_missing_raw_partition_is_named_with_the_remedy(ingested, tmp_path):
    base = ingested.copy(tmp_path, *INPUTS)
    with pytest.raises(MissingPartition, match=r"2013-01-15.*airflow-ml run ingest flights --from 2013-01-14"):
        base.run("features", "2013-01-14", "2013-01-15")


class TestOnlyWhatPassedValidation:
    DAYS = ("2013-01-13", "2013-01-14")

    def refusal(self, base: Base, model=None) -> MissingPartition:
        with pytest.raises(MissingPartition) as refused:
            base.run("features", *self.DAYS, model=model)
        assert refused.value.remedy == (
            "run it first: airflow-ml run validate flights --from 2013-01-13 --to 2013-01-14"
        )
        assert not base.table("features").exists()
        return refused.value

    def test_a_partition_that_nobody_validated(self, ingested, tmp_path):
        base = ingested.copy(tmp_path, "raw", "outcomes")
        assert "not validated, or refused by validation, as it is now: 2013-01-13, 2013-01" in str(self.refusal(base))
        # Not in one window, nor in that of the features.
        base.run("validate", "2013-01-12", "2013-01-13")
        assert self.refusal(base).what.endswith(": 2013-01-14")

    def test_a_partition_that_was_replaced_since(self, ingested, spark, tmp_path):
        base = ingested.copy(tmp_path, *INPUTS)
        base.model = built_by("sound")
        landed = World(tmp_path / "landing").deliver(Window.of(*self.DAYS))[1]
        header, *lines = gzip.decompress(landed.read_bytes()).decode().splitlines(keepends=True)
        landed.write_bytes(gzip.compress("".join([header, *lines[1:]]).encode(), mtime=0))
        base.run("ingest", *self.DAYS)
        assert self.refusal(base).what.endswith(": 2013-01-14")
        base.run("validate", *self.DAYS)
        assert base.run("features", "2013-01-14").rows == len(lines) - 1

    def test_a_check_that_changed_since(self, ingested, tmp_path):
        base = ingested.copy(tmp_path, *INPUTS)
        schema = SHORT.source.schema_
        distance = schema.column("distance").model_copy(update={"checks": (in_range(10, 2000),)})
        columns = tuple(distance if column.name == "distance" else column for column in schema.columns)
        source = SHORT.source.model_copy(update={"schema_": schema.model_copy(update={"columns": columns})})
        stricter = SHORT.model_copy(update={"source": source})
        self.refusal(base, stricter)
        with pytest.raises(DataBroken, match="values out of range"):
            base.run("validate", *self.DAYS, model=stricter)
        self.refusal(base, stricter)


def test_missing_outcomes_that_should_be_known_are_named_with_the_remedy(ingested, tmp_path):
    base = ingested.copy(tmp_path, "raw", "validated")
    with pytest.raises(MissingPartition, match="airflow-ml run ingest_outcomes flights"):
        base.run("features", "2013-01-05")


CONTRACT = {
    "without_a_column": "returns no column miles",
    "with_an_entity_twice": "3 rows of 2013-01-02 repeat an entity",
    "without_a_time": "scheduled_departure is null in",
    "of_another_day": "days that were not asked for: 2013-01-03",
    "of_another_year": r"scheduled_departure of \d+ rows of 2013-01-02 is of another day, as 2014-01-02",
    "without_a_clock": "scheduled_departure is string, not a time",
    "with_a_label": "returns a column 'label', which we add",
    "without_a_row": "returns no row for 2013-01-02",
    "that_fails_in_python": r"builds:that_fails_in_python: the function failed: AttributeError: .*'nothing'",
}


@pytest.mark.parametrize("build", CONTRACT)
def test_a_build_that_breaks_its_contract_commits_nothing(ingested, spark, tmp_path, build):
    base = ingested.copy(tmp_path, *INPUTS)
    base.model = built_by(build)
    with pytest.raises(SpecError, match=CONTRACT[build]) as refused:
        base.run("features", "2013-01-02")
    assert refused.value.remedy
    assert not base.table("features").exists()
    assert not list(base.table("features").path.rglob("*.parquet"))
