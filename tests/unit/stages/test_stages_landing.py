"""Landing files: lines that are told, and what stands where a file should be."""

import csv
import io
import os
import tempfile
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ml import Column, Files, Platform, Schema
from airflow_ml.lifecycle.errors import BadFile
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.lifecycle.windows import Window
from airflow_ml.stages._landing import Landing
from airflow_ml.stages._parsing import parse
from airflow_ml.stages._problems import Refused
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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,n\ra,1\rb,2\n", "row 1: lines end with CR alone"),
        (
            "id,n," + "x" * 131_073 + "\na,1,2\n",
            "row 1: the header cannot be read: field larger than field limit (131072)",
        ),
        ('id,n ,"n\n"a",1\n', "it cannot be read as delimited text: Column 'n' in include_columns"),
    ],
    ids=["CR alone", "a field of many pages", "a quote that is not closed"],
)
def test_a_header_that_cannot_be_read_is_refused(text, says):
    lenient = SOURCE.model_copy(update={"schema_": SOURCE.schema_.model_copy(update={"new_columns": "warn"})})
    with pytest.raises(Refused) as caught:
        parse(text.encode(), lenient)
    assert str(caught.value.problems[0]).startswith(says)
    assert caught.value.problems[0].remedy


def ingest(base, *days):
    return execute(
        JobRequest(stage="ingest", model=small_model(), platform=Platform(base=str(base)), window=Window.of(*days))
    )


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "landing").mkdir()
    (tmp_path / "landing/raw").write_text("the upstream has moved")
    with pytest.raises(BadFile, match=r"raw/2013-01-01\.csv\.gz: it cannot be read: Not a directory") as refused:
        ingest(tmp_path, "2013-01-01")
    assert refused.value.remedy


@pytest.mark.parametrize("days", [("2013-01-01",), ("2013-01-01", "2013-01-02")])
def test_a_file_on_a_broken_disk_is_refused(tmp_path, days):
    (tmp_path / "landing/raw").mkdir(parents=True)
    for day in days:
        # Reading the first page of one's own memory is an input/output error, as that of a bad sector is.
        (tmp_path / f"landing/raw/{day}.csv.gz").symlink_to("/proc/self/mem")
    with pytest.raises(BadFile, match=r"(?s)2013-01-01\.csv\.gz.*it cannot be read: Input/output error"):
        ingest(tmp_path, days[0], days[-1])
    assert not (tmp_path / "lake").exists() or not list((tmp_path / "lake").rglob("*.json"))


def test_a_file_that_this_user_may_not_read_is_refused():
    user = os.geteuid()
    # Outside pytest's own folder, which only its user may enter.
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        path = Path(root, "2013-01-01.csv.gz")
        path.write_bytes(b"more than its end, which is looked at to find copies")
        path.chmod(0)
        landing = Landing(SOURCE.model_copy(update={"path": "{ds}.csv.gz"}), root)
        if user == 0:
            os.seteuid(65_534)
        try:
            assert landing.sha256(date(2013, 1, 1)) is None
            with pytest.raises(BadFile, match="it cannot be read: Permission denied") as refused:
                list(landing.read([date(2013, 1, 1)]))
        finally:
            os.seteuid(user)
    assert "this user can read it" in refused.value.remedy
