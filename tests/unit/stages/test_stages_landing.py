"""Landing files: lines that are told, and what stands where a file should be."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ml import Column, Files, Platform, Schema
from airflow_ml.lifecycle.errors import BadFile
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.lifecycle.windows import Window
from airflow_ml.stages._parsing import Refused, parse
from airflow_ml.stages.runner import execute
from tests.support.models import small_model

SOURCE = Files(
    path="{ds}.csv",
    schema=Schema(columns=(Column(name="id", type="string"), Column(name="n", type="int")), key="id"),
)


def refusal(text: str) -> list[str]:
    with pytest.raises(Refused) as caught:
        parse(text.encode(), SOURCE)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("last", "says"),
    [
        ("b,many\n", "row 5: column 'n': 'many' cannot be read as int"),
        ("b,\n", "row 5: column 'n': an empty field"),
        ("b,1,2\n", "row 5: 3 fields instead of 2"),
        ("c,1\nc,2\n", "row 6: key id='c' stands in row 5 already"),
    ],
)
def test_rows_are_lines_also_after_a_field_of_several_lines(last, says):
    assert refusal('id,n\n"a\nof ""three""\nlines",1\n' + last) == [says]


words = st.text(st.sampled_from('ab ,"\n'), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(st.lists(words, min_size=1, max_size=10, unique=True), st.data())
def test_a_bad_value_is_told_with_the_line_in_which_its_row_begins(keys, data):
    bad = data.draw(st.integers(0, len(keys) - 1))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "n"])
    line = 0
    for number, key in enumerate(keys):
        if number == bad:
            line = text.getvalue().count("\n") + 1
        writer.writerow([key, "x" if number == bad else "1"])
    assert refusal(text.getvalue()) == [f"row {line}: column 'n': 'x' cannot be read as int"]


@pytest.mark.parametrize("days", [("2013-01-01", "2013-01-01"), ("2013-01-01", "2013-01-02")])
def test_a_folder_in_place_of_a_file_is_refused(tmp_path, days):
    for day in ("2013-01-01", "2013-01-02"):
        (tmp_path / f"landing/raw/{day}.csv.gz").mkdir(parents=True)
    request = JobRequest(
        stage="ingest", model=small_model(), platform=Platform(base=str(tmp_path)), window=Window.of(*days)
    )
    with pytest.raises(BadFile, match=r"(?s)2013-01-01\.csv\.gz.*it is a folder") as refused:
        execute(request)
    assert refused.value.remedy
