"""From a line of the spool to a row of the lake: exactly once, through every death in between."""

import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pytest

from airflow_ml.gateway.committer import commit_all
from airflow_ml.gateway.records import Record, features_json, line_of, tables_of
from airflow_ml.gateway.spool import Spool, orphans, segments
from airflow_ml.lake import LakeTable

NOON = 1_700_000_000_000_000  # 2023-11-14


def record(number: int, at: int = NOON) -> Record:
    text, digest = features_json({"x": number, "name": "é\n"})
    return Record(
        request_id=f"r{number}", row=0, entity=f"e{number}", at=at, model_version=3, label="stable", arm="stable",
        experiment=None, probability=0.5, fallback=None, error=None, latency_ms=1.5, inputs=text, inputs_sha256=digest,
    )  # fmt: skip


def filled(root: Path, *batches: int) -> Spool:
    """A spool with a closed segment for each number of records."""
    spool = Spool(root)
    number = 0
    for size in batches:
        for _ in range(size):
            spool.append(line_of(record(number)))
            number += 1
        spool.rotate()
    return spool


@pytest.fixture
def table(tmp_path):
    return LakeTable(tmp_path / "lake" / "online")


def entities(table: LakeTable) -> list[str]:
    return sorted(table.read()["entity"].to_pylist()) if table.exists() else []


def test_records_come_back_as_rows_of_their_day(table, tmp_path):
    next_day = NOON + 12 * 3600 * 1_000_000
    spool = Spool(tmp_path / "spool")
    for one in (record(1), record(2, at=next_day)):
        spool.append(line_of(one))
    spool.rotate()
    (done,) = commit_all(table, spool.folder, with_open=False)
    assert done["rows"] == 2
    assert table.snapshot().rows == {date(2023, 11, 14): 1, date(2023, 11, 15): 1}
    (row,) = [row for row in table.read().to_pylist() if row["entity"] == "e1"]
    assert row["inputs"] == '{"name":"é\\n","x":1}'
    assert row["at"].isoformat() == "2023-11-14T22:13:20"
    assert (row["model_version"], row["label"], row["probability"], row["error"]) == (3, "stable", 0.5, None)


def test_what_is_written_now_waits_and_what_is_closed_is_committed_once(table, tmp_path):
    spool = filled(tmp_path / "spool", 2, 3)
    spool.append(line_of(record(9)))
    assert [s.closed for s in segments(spool.folder)] == [True, True, False]
    assert [done["rows"] for done in commit_all(table, spool.folder, with_open=False)] == [2, 3]
    assert len(entities(table)) == 5
    assert [s.closed for s in segments(spool.folder)] == [False]
    assert list(commit_all(table, spool.folder, with_open=False)) == []
    spool.rotate()
    assert [done["rows"] for done in commit_all(table, spool.folder, with_open=False)] == [1]
    assert len(entities(table)) == 6


def test_a_batch_that_was_committed_by_somebody_who_died_is_not_committed_twice(table, tmp_path):
    spool = filled(tmp_path / "spool", 4)
    (segment,) = segments(spool.folder)
    content = segment.path.read_bytes()
    list(commit_all(table, spool.folder, with_open=False))
    segment.path.write_bytes(content)  # as if it died before removing it
    list(commit_all(table, spool.folder, with_open=False))
    assert len(entities(table)) == 4
    assert segments(spool.folder) == []


def test_torn_lines_are_counted_and_do_not_hurt_the_others():
    whole = line_of(record(1))
    tables, torn = tables_of([whole, whole[:40] + b"\n", b"\n", b"[]\n", b'{"at": 1}\n', line_of(record(2))])
    assert torn == 3
    assert sum(content.num_rows for content in tables.values()) == 2


POISON = {
    "half a surrogate pair": {"entity": "\ud800"},
    "more than 64 bits": {"model_version": 2**70},
    "text for a number": {"row": "first"},
    "no time": {"at": float("inf")},
}


@pytest.mark.parametrize("wrong", POISON.values(), ids=POISON)
def test_a_line_that_no_column_holds_is_counted_and_does_not_hold_up_the_others(table, tmp_path, wrong):
    """As an older gateway may have spooled it, that died of it since; the next one brings what is around it."""
    root = tmp_path / "spool"
    dead = filled(root, 3)
    dead.append(line_of(record(3)))
    dead.append(line_of(record(4) | wrong))
    dead.append(line_of(record(5)))
    dead.rotate()
    dead.append(line_of(record(6)))
    dead.release()
    (dead.folder / "note.open").write_text("left by a person")
    spool = Spool(root)
    committer = _committer(table, spool)
    said = committer.stdout.readline() + committer.stdout.readline() + committer.stdout.readline()
    spool.release()
    committer.stdin.close()
    assert committer.wait(30) == 0
    assert b'"rows": 2, "torn": 1' in said
    assert entities(table) == ["e0", "e1", "e2", "e3", "e5", "e6"]
    assert list(root.iterdir()) == []


def test_a_full_disk_loses_the_line_it_does_not_take_and_no_other(tmp_path):
    """A limit on the size of a file stands for the disk: a part of the line is written, then no more."""
    code = f"""
import resource, signal, sys
from pathlib import Path
from airflow_ml.gateway.records import line_of
from airflow_ml.gateway.spool import Spool
from tests.unit.gateway.test_gateway_spool import record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool(Path({str(tmp_path / "spool")!r}))
spool.append(line_of(record(1)))
resource.setrlimit(resource.RLIMIT_FSIZE, (spool.bytes + 50, resource.RLIM_INFINITY))
try:
    spool.append(line_of(record(2)))
    sys.exit("the disk took it")
except OSError:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.append(line_of(record(3)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "spool").iterdir()
    (segment,) = segments(folder)
    tables, torn = tables_of(segment.path.read_bytes().splitlines(keepends=True))
    assert torn == 1
    assert [row["entity"] for content in tables.values() for row in content.to_pylist()] == ["e1", "e3"]


def test_a_segment_that_could_not_be_renamed_is_closed_by_the_next_call(table, tmp_path):
    spool = Spool(tmp_path / "spool")
    spool.append(line_of(record(1)))
    spool.folder.rename(tmp_path / "away")
    with pytest.raises(OSError, match="No such file"):
        spool.rotate()
    (tmp_path / "away").rename(spool.folder)
    spool.append(line_of(record(2)))
    assert spool.rotate()
    assert [done["rows"] for done in commit_all(table, spool.folder, with_open=False)] == [1, 1]
    assert not spool.rotate()


def test_only_what_a_dead_writer_left_is_adopted(table, tmp_path):
    root = tmp_path / "spool"
    living, dead = filled(root, 1), filled(root, 2)
    dead.append(line_of(record(8)))
    (root / ".new-half").mkdir()
    dead.release()
    for folder in orphans(root):
        assert folder == dead.folder
        assert list(orphans(root)) == [], "nobody else adopts it meanwhile"
        assert [done["rows"] for done in commit_all(table, folder, with_open=True)] == [2, 1]
    assert not dead.folder.exists()
    assert living.folder.exists()
    assert len(entities(table)) == 3


def test_a_lake_that_cannot_be_written_keeps_its_batches_in_their_order(table, tmp_path):
    spool = filled(tmp_path / "spool", 1, 2)
    table.path.parent.mkdir(parents=True)
    table.path.write_text("no folder")
    (done,) = commit_all(table, spool.folder, with_open=False)
    assert "cannot append" in done["failed"]
    assert len(segments(spool.folder)) == 2
    table.path.unlink()
    assert [done["rows"] for done in commit_all(table, spool.folder, with_open=False)] == [1, 2]


def _committer(table: LakeTable, spool: Spool) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "airflow_ml.gateway.committer", table.path, spool.folder.parent, spool.writer],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[spool.lock],
    )  # fmt: skip


def test_the_committer_outlives_its_gateway_and_takes_all_that_it_left(table, tmp_path):
    root = tmp_path / "spool"
    earlier = filled(root, 3)
    earlier.append(line_of(record(20)))
    earlier.release()
    spool = Spool(root)
    committer = _committer(table, spool)
    said = committer.stdout.readline()
    spool.append(line_of(record(30)))
    committer.send_signal(signal.SIGTERM)  # as to the whole group
    spool.release()
    committer.stdin.close()
    said += committer.stdout.read()
    assert committer.wait(30) == 0
    assert entities(table) == ["e0", "e1", "e2", "e20", "e30"]
    assert list(root.iterdir()) == []
    assert said.count(b'"recovered": true') == 2


@pytest.mark.parametrize("moment", [0.0, 0.4, 0.8, 1.0, 1.2, 1.5])
def test_a_committer_killed_at_any_moment_leaves_every_row_once(table, tmp_path, moment):
    spool = filled(tmp_path / "spool", *[5] * 8)
    committer = _committer(table, spool)
    committer.stdin.write(b"\n")
    committer.stdin.flush()
    time.sleep(moment)
    os.kill(committer.pid, signal.SIGKILL)
    committer.wait()
    list(commit_all(table, spool.folder, with_open=False))
    assert entities(table) == sorted(f"e{n}" for n in range(40))
    assert segments(spool.folder) == []
