"""Value skew against what the champion was trained on, and the page of the anomalies."""

from datetime import date
from html.parser import HTMLParser

import polars as pl
import pyarrow as pa
import pytest

from airflow_ml.lifecycle.anomalies import Anomalies, Anomaly
from airflow_ml.lifecycle.statistics import ColumnStatistics, Statistics
from airflow_ml.spec import Column, Schema, Volume, categories, in_range, nulls
from airflow_ml.stages._anomaly_page import anomaly_page
from airflow_ml.stages._checks import check_columns, check_profiles, check_values, seen_categories

MONDAY, TUESDAY = date(2013, 1, 7), date(2013, 1, 8)

SCHEMA = Schema(
    columns=(
        Column(name="id", type="string"),
        Column(name="carrier", type="string", checks=(categories(0.2, severity="fail"),)),
        Column(name="origin", type="string", checks=(categories(0.0, ("EWR", "JFK")),)),
        Column(name="seats", type="int", nullable=True, checks=(in_range(1, 500), nulls(0.5, "warn"))),
        Column(name="temp", type="float", nullable=True, checks=(in_range(None, 120, "warn"),)),
    ),
    key="id",
    volume=Volume(min_ratio=0.5, max_ratio=2.0),
)

KNOWN = Statistics(
    model="small",
    days=("2012-12-01", "2012-12-31"),
    rows=100,
    daily_rows=(3, 4),
    columns=(
        ColumnStatistics(name="carrier", type="string", rows=100, null_share=0, categories={"AA": 0.9, "B6": 0.1}),
    ),
)


def day(ds: date, **changes: list) -> pl.DataFrame:
    """Four sound rows, but for the changes."""
    columns = {
        "ds": [ds] * 4,
        "id": ["a", "b", "c", "d"],
        "carrier": ["AA", "AA", "B6", "AA"],
        "origin": ["EWR", "JFK", "EWR", "JFK"],
        "seats": [50, 100, None, 200],
        "temp": [30.0, None, 40.0, 50.0],
    }
    types = {"seats": pl.Int64, "temp": pl.Float64, "carrier": pl.String}
    return pl.DataFrame(columns | changes, schema_overrides=types)


def told(anomalies: list[Anomaly]) -> list[tuple[str, str, str | None, str]]:
    return [(a.day, a.kind, a.column, a.severity) for a in anomalies]


def test_sound_days_have_no_anomaly():
    rows = pl.concat([day(MONDAY), day(TUESDAY)])
    assert check_values(rows, SCHEMA) == []
    assert check_profiles(rows, SCHEMA, {MONDAY: 4.0, TUESDAY: 4.0}, KNOWN) == []


def test_an_unseen_category_is_told_with_its_share_and_examples():
    rows = pl.concat([day(MONDAY), day(TUESDAY, carrier=["AA", "ZZ", "YY", "ZZ"])])
    (found,) = check_profiles(rows, SCHEMA, {}, KNOWN)
    assert told([found]) == [("2013-01-08", "categories", "carrier", "fail")]
    assert found.found == "75.0% of 4 values were not seen in training (YY, ZZ)"
    assert found.rows == 3


def test_without_a_champion_only_declared_categories_are_judged():
    rows = day(MONDAY, carrier=["ZZ"] * 4, origin=["EWR", "LGA", "EWR", "JFK"])
    assert told(check_profiles(rows, SCHEMA, {}, None)) == [("2013-01-07", "categories", "origin", "warn")]
    check = SCHEMA.column("carrier").checks[0]
    assert seen_categories("carrier", check, None) is None
    assert seen_categories("carrier", check, KNOWN) == ["AA", "B6"]


def test_values_out_of_range_are_counted_by_day_with_the_severity_of_their_check():
    rows = pl.concat([day(MONDAY, seats=[0, 501, 7, -1]), day(TUESDAY, temp=[121.0, None, 0.0, -300.0])])
    first, second = check_values(rows, SCHEMA)
    assert told([first, second]) == [("2013-01-07", "range", "seats", "fail"), ("2013-01-08", "range", "temp", "warn")]
    assert (first.rows, first.found) == (3, "3 values out of range (0, 501, -1)")
    assert (first.expected, second.expected) == ("at least 1 and at most 500", "at most 120")


def test_an_empty_field_of_a_column_that_may_have_none_fails():
    (found,) = check_values(day(MONDAY, carrier=["AA", None, None, "B6"]), SCHEMA)
    assert told([found]) == [("2013-01-07", "empty_field", "carrier", "fail")]
    assert found.rows == 2


def test_a_share_of_nulls_at_the_limit_passes_and_above_it_does_not():
    rows = pl.concat([day(MONDAY, seats=[None, None, 1, 2]), day(TUESDAY, seats=[None, None, None, 2])])
    assert told(check_profiles(rows, SCHEMA, {}, KNOWN)) == [("2013-01-08", "nulls", "seats", "warn")]


@pytest.mark.parametrize(("mean", "anomalous"), [(8.0, False), (8.1, True), (2.0, False), (1.9, True)])
def test_volume_is_judged_by_the_mean_of_the_days_before(mean, anomalous):
    found = check_profiles(day(MONDAY), SCHEMA, {MONDAY: mean}, KNOWN)
    assert told(found) == [("2013-01-07", "volume", None, "warn")] * anomalous


def test_columns_of_each_days_files_are_held_to_the_schema():
    declared = pa.schema(
        [("id", "string"), ("carrier", "string"), ("origin", "string"), ("seats", "int64"), ("temp", "float64")]
    )
    changed = pa.schema(
        [("id", "string"), ("origin", "string"), ("seats", "float64"), ("temp", "float64"), ("gate", "int64")]
    )
    found = check_columns({MONDAY: declared, TUESDAY: changed}, SCHEMA)
    assert sorted(told(found)) == [
        ("2013-01-08", "missing_column", "carrier", "fail"),
        ("2013-01-08", "new_column", "gate", "fail"),
        ("2013-01-08", "type", "seats", "fail"),
    ]


def test_the_page_tells_failures_first_and_shows_values_as_text():
    common = {"day": "2013-01-07", "expected": "none"}
    anomalies = (
        Anomaly(kind="nulls", column="seats", severity="warn", found="many", **common),
        Anomaly(kind="categories", column="carrier", severity="fail", found="<script>alert(1)</script>", **common),
    )
    found = Anomalies(
        model="small",
        window=("2013-01-07", "2013-01-07"),
        rows=4,
        compared_with="the declared schema",
        anomalies=anomalies,
        unjudged=("categories of 'dest': there is no champion yet",),
    )
    tags: list[str] = []
    texts: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)
    parser.handle_data = texts.append
    parser.feed(anomaly_page(found))
    assert "script" not in tags
    text = " ".join(texts)
    assert "broken" in text
    assert text.index("alert(1)") < text.index("many")
    assert "there is no champion yet" in text
