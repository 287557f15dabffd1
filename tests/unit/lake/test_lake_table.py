"""Commits are atomic, replace exactly their partitions, and two writers leave one winner."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.errors import BaseError, CommitConflict, MissingPartition
from airflow_ml.lifecycle.fingerprints import fence, fingerprint
from airflow_ml.lifecycle.windows import Window

DAY = date(2013, 1, 1)


def days(count: int, start: date = DAY) -> list[date]:
    return [start + timedelta(days=n) for n in range(count)]


def commit(
    table: LakeTable, partitions: dict[date, str], rows: int = 3, columns: tuple[str, ...] = ("a",), **options
) -> int:
    """Commit partitions whose content is a function of what ``partitions`` says they were made from."""
    attempt = table.attempt()
    schema = pa.schema([(name, pa.string()) for name in columns])
    for day, source in partitions.items():
        if rows:
            data = pa.table({name: [f"{source}-{n}" for n in range(rows)] for name in columns}, schema=schema)
            pq.write_table(data, attempt.partition(day) / "part.parquet")
    return table.commit(attempt, {day: fingerprint(source) for day, source in partitions.items()}, schema, **options)


@pytest.fixture
def table(tmp_path):
    return LakeTable(tmp_path / "lake" / "t")


def test_a_commit_replaces_exactly_its_partitions(table):
    commit(table, dict.fromkeys(days(5), "old"))
    commit(table, {days(5)[2]: "new"})
    found = table.read(columns=["a", "ds"]).to_pylist()
    assert {row["ds"] for row in found if row["a"].startswith("new")} == {days(5)[2]}
    assert len(found) == 15


def test_an_older_version_can_be_read_after_an_overwrite(table):
    version = commit(table, {DAY: "old"})
    commit(table, {DAY: "new"})
    assert table.read(version=version)["a"].to_pylist() == ["old-0", "old-1", "old-2"]
    assert table.snapshot(version).rows == {DAY: 3}


def test_fences_say_what_a_partition_was_made_from(table):
    commit(table, {DAY: "one"})
    assert table.stale({DAY: fingerprint("one")}) == []
    assert table.stale({DAY: fingerprint("two"), days(2)[1]: fingerprint("one")}) == days(2)
    commit(table, {DAY: "two"})
    assert table.fences([DAY]) == {DAY: fence(fingerprint("two"))}


def test_going_back_to_earlier_inputs_is_not_mistaken_for_being_current(table):
    for source in ("one", "two"):
        commit(table, {DAY: source})
    assert table.stale({DAY: fingerprint("one")}) == [DAY]
    commit(table, {DAY: "one"})
    assert table.read()["a"].to_pylist()[0] == "one-0"


def test_a_repeated_commit_is_no_commit(table):
    first = commit(table, {DAY: "same"})
    assert commit(table, {DAY: "same"}) == first
    assert len(list(table.path.glob("staged-*"))) == 1, "the second attempt's files are gone"


def test_an_empty_partition_is_committed(table):
    commit(table, {DAY: "rows"})
    commit(table, {DAY: "none"}, rows=0)
    assert table.missing([DAY]) == []
    assert table.snapshot().rows == {}
    assert table.read().num_rows == 0


def test_new_columns_are_added_and_old_partitions_read_null(table):
    commit(table, {DAY: "old"})
    commit(table, {days(2)[1]: "new"}, columns=("a", "b"))
    assert table.read(Window.of(DAY), columns=["b"])["b"].null_count == 3
    commit(table, {days(3)[2]: "newer"}, columns=("b",))
    assert table.read(Window.of(days(3)[2]), columns=["a"])["a"].null_count == 3


def test_a_changed_type_is_refused_with_the_remedy(table):
    commit(table, {DAY: "old"})
    attempt = table.attempt()
    pq.write_table(pa.table({"a": [1]}), attempt.partition(DAY) / "part.parquet")
    with pytest.raises(BaseError, match=r"a \(.*string.* in the table, int64 in the new files\).*rebuild"):
        table.commit(attempt, {DAY: fingerprint("int")}, pa.schema([("a", pa.int64())]))


def test_a_missing_partition_is_named(table):
    with pytest.raises(MissingPartition, match=r"not committed: 2013-01-01.*Remedy: run ingest"):
        table.require([DAY], remedy="run ingest")
    with pytest.raises(MissingPartition, match="does not exist yet"):
        table.read()


def test_files_for_days_that_are_not_committed_are_refused(table):
    attempt = table.attempt()
    pq.write_table(pa.table({"a": ["x"]}), attempt.partition(DAY) / "part.parquet")
    with pytest.raises(CommitConflict, match="not committed"):
        table.commit(attempt, {}, pa.schema([("a", pa.string())]))


def test_two_writers_of_one_night_leave_one_commit(table):
    commit(table, {DAY: "before"})
    versions: list[int] = []
    writers = [threading.Thread(target=lambda: versions.append(commit(table, {DAY: "night"}))) for _ in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(versions) == 6
    assert len(set(versions)) == 1
    assert table.snapshot().version == versions[0] == 2
    assert table.read().num_rows == 3


def test_writers_of_other_partitions_do_not_disturb_each_other(table):
    failures: list[Exception] = []

    def write(day: date) -> None:
        try:
            commit(table, {day: "x"})
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(day,)) for day in days(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    assert table.snapshot().rows == dict.fromkeys(days(8), 3)


def test_an_old_try_does_not_overwrite_what_a_newer_one_committed(table):
    commit(table, {DAY: "first"})
    seen_by_the_old_try = table.fences([DAY])
    commit(table, {DAY: "newer inputs"})
    with pytest.raises(CommitConflict, match="from other inputs meanwhile"):
        commit(table, {DAY: "older inputs"}, expected=seen_by_the_old_try)
    assert table.read()["a"].to_pylist()[0] == "newer inputs-0"


def test_overlapping_windows_of_the_same_inputs_are_no_conflict(table):
    late = days(6)[3:]
    seen = table.fences(late)
    commit(table, dict.fromkeys(days(5), "same"))
    commit(table, dict.fromkeys(late, "same"), expected=seen)
    assert table.snapshot().rows == dict.fromkeys(days(6), 3)


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from datetime import date
    import pyarrow as pa, pyarrow.parquet as pq
    from airflow_ml.lake import LakeTable
    from airflow_ml.lifecycle.fingerprints import fingerprint
    import deltalake

    path, moment = sys.argv[1:]
    die = lambda: os.kill(os.getpid(), signal.SIGKILL)
    commit = deltalake.DeltaTable.create_write_transaction
    def committing(*args, **options):
        if moment == "before the commit": die()
        commit(*args, **options)
        if moment == "after the commit": die()
    deltalake.DeltaTable.create_write_transaction = committing

    table = LakeTable(path)
    attempt = table.attempt()
    pq.write_table(pa.table({"a": ["new"]}), attempt.partition(date(2013, 1, 1)) / "part.parquet")
    if moment == "files written": die()
    table.commit(attempt, {date(2013, 1, 1): fingerprint("new")}, pa.schema([("a", pa.string())]))
    """
)


@pytest.mark.parametrize(
    ("moment", "seen"), [("files written", "old-0"), ("before the commit", "old-0"), ("after the commit", "new")]
)
def test_kill_9_leaves_the_old_state_or_the_new_one(table, moment, seen):
    commit(table, {DAY: "old"}, rows=1)
    done = subprocess.run([sys.executable, "-c", KILLED, str(table.path), moment], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert table.read()["a"].to_pylist() == [seen]
    subprocess.run([sys.executable, "-c", KILLED, str(table.path), "never"], env=os.environ, check=True)
    assert table.read()["a"].to_pylist() == ["new"]
    assert table.snapshot().version == 2, "the retry of a commit that landed commits nothing"


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(days(4)), st.sampled_from(["u", "v", "w"]), min_size=1), min_size=1, max_size=5
    )
)
def test_the_table_is_what_the_last_commit_of_each_partition_said(tmp_path_factory, commits):
    table = LakeTable(tmp_path_factory.mktemp("lake") / "t")
    expected: dict[date, str] = {}
    for partitions in commits:
        commit(table, partitions, rows=1)
        expected |= partitions
    found = {row["ds"]: row["a"] for row in table.read(columns=["a", "ds"]).to_pylist()}
    assert found == {day: f"{source}-0" for day, source in expected.items()}
    assert table.stale({day: fingerprint(source) for day, source in expected.items()}) == []
    shutil.rmtree(table.path)
