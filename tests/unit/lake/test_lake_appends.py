"""Batches of a log: appended once each, whoever comes beside or dies, and rewritten when there are many of a day."""

import os
import subprocess
import sys
import threading
from datetime import date, datetime, time, timedelta

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from deltalake import DeltaTable

from airflow_ml.lake import LakeTable
from airflow_ml.lake.appends import append, compact
from airflow_ml.lifecycle.errors import BaseError

FIRST, SECOND = date(2013, 1, 1), date(2013, 1, 2)


def batch(*values: str, day: date = FIRST) -> dict[date, pa.Table]:
    return {day: pa.table({"a": list(values)})}


@pytest.fixture
def table(tmp_path):
    return LakeTable(tmp_path / "lake" / "log")


def values(table: LakeTable) -> list[str]:
    return sorted(table.read()["a"].to_pylist())


def test_a_batch_is_appended_once(table):
    assert append(table, batch("x", "y"), "one", 1)
    assert not append(table, batch("x", "y"), "one", 1)
    assert append(table, batch("z"), "one", 2)
    assert not append(table, batch("x", "y"), "one", 1), "an old number, too"
    assert append(table, batch("x"), "two", 1), "writers number for themselves"
    assert values(table) == ["x", "x", "y", "z"]
    assert table.snapshot().rows == {FIRST: 4}


def test_a_batch_may_span_days_and_bring_a_new_column(table):
    append(table, batch("x"), "one", 1)
    append(table, {day: pa.table({"a": ["y"], "b": [1]}) for day in (FIRST, SECOND)}, "one", 2)
    assert table.snapshot().rows == {FIRST: 2, SECOND: 1}
    assert sorted(row["b"] or 0 for row in table.read().to_pylist()) == [0, 1, 1]
    with pytest.raises(BaseError, match="a column changed its type"):
        append(table, {FIRST: pa.table({"a": [1]})}, "one", 3)
    assert table.snapshot().rows == {FIRST: 2, SECOND: 1}


def test_many_writers_at_once_lose_nothing(table):
    def write(writer: int) -> None:
        for number in range(5):
            append(table, batch(f"{writer}-{number}"), f"writer-{writer}", number)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values(table) == sorted(f"{writer}-{number}" for writer in range(4) for number in range(5))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_death_around_the_commit_leaves_all_of_the_batch_or_nothing(table, moment):
    append(table, batch("x"), "one", 1)
    code = f"""
import os, signal, deltalake, pyarrow as pa
from datetime import date, datetime, time, timedelta
from airflow_ml.lake import LakeTable, appends
transact = deltalake.DeltaTable.create_write_transaction
def dying(*args, **options):
    if {moment!r} == "after":
        transact(*args, **options)
    os.kill(os.getpid(), signal.SIGKILL)
deltalake.DeltaTable.create_write_transaction = dying
appends.append(LakeTable({str(table.path)!r}), {{date(2013, 1, 1): pa.table({{"a": ["y"]}})}}, "one", 2)
"""
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == -9
    assert values(table) == (["x", "y"] if moment == "after" else ["x"])
    assert append(table, batch("y"), "one", 2) is (moment == "before")
    assert values(table) == ["x", "y"]


def test_many_files_of_a_day_become_few_and_its_rows_stay(table):
    assert compact(table) == []
    for number in range(12):
        append(table, batch(f"{number}"), "one", number)
    append(table, batch("later", day=SECOND), "one", 12)
    before = values(table)
    assert compact(table) == [FIRST]
    files = [path for path in DeltaTable(str(table.path)).file_uris() if str(FIRST) in path]
    assert len(files) == 1
    assert values(table) == before
    assert table.snapshot().rows == {FIRST: 12, SECOND: 1}
    assert compact(table) == []
    assert not append(table, batch("again"), "one", 11), "who appended what is not forgotten"


def test_what_is_appended_while_files_are_rewritten_is_not_lost(table):
    append(table, batch("first"), "one", 0)
    done = threading.Event()

    def rewrite() -> None:
        while not done.is_set():
            compact(table)

    rewriting = threading.Thread(target=rewrite)
    rewriting.start()
    for number in range(1, 40):
        append(table, batch(f"{number}"), "one", number)
    done.set()
    rewriting.join()
    assert values(table) == sorted(["first", *map(str, range(1, 40))])
    assert len(DeltaTable(str(table.path)).file_uris()) < 30


def test_a_reader_of_a_span_of_time_passes_the_other_files_over(table):
    noon = datetime.combine(FIRST, time(12))
    for minute in range(5):
        times = [noon + timedelta(minutes=minute, microseconds=us) for us in (1, 999_999)] + [None]
        append(table, {FIRST: pa.table({"at": pa.array(times, pa.timestamp("us"))})}, "one", minute)
    dataset = table.dataset()
    wanted = pads.field("at") >= noon + timedelta(minutes=3, microseconds=999_999)
    assert len(list(dataset.get_fragments(filter=wanted))) == 2
    found = dataset.to_table(filter=wanted)["at"].to_pylist()
    assert sorted(found) == [
        noon + timedelta(minutes=m, microseconds=us) for m, us in ((3, 999_999), (4, 1), (4, 999_999))
    ]


def test_a_filter_on_any_column_finds_its_rows(table):
    at = datetime.combine(FIRST, time(1))
    texts = ["a" * 40, None, "z" * 40]
    columns = {"at": [at] * 3, "version": [1, 2, 2], "text": texts, "p": [0.1, None, 0.3]}
    rows = pa.table({**columns, "nobody": pa.nulls(3, pa.string())})
    append(table, {FIRST: rows}, "one", 0)
    append(table, {FIRST: rows.set_column(3, "p", pa.array([float("inf"), float("nan"), 0.2]))}, "one", 1)
    seen = DeltaTable(str(table.path)).to_pyarrow_dataset()
    for wanted, count in (
        (pads.field("version") == 2, 4),
        (pads.field("text") == texts[0], 2),
        (pads.field("text") >= texts[2], 2),
        (pads.field("p") > 0.15, 3),
        (pads.field("nobody").is_null(), 6),
        (pads.field("nobody").is_valid(), 0),
    ):
        assert seen.to_table(filter=wanted).num_rows == count, wanted
