"""`airflow-ml vacuum`: what replaced partitions and killed attempts have left goes; what a result names stays."""

import fcntl
import os
import time
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from airflow_ml.cli import app
from airflow_ml.housekeeping import sweep
from airflow_ml.lifecycle.fingerprints import fingerprint
from airflow_ml.lifecycle.windows import Window
from tests.support.finished import NIGHT, commit_features, finish_training, write_result

OLD = time.time() - 30 * 86_400


@pytest.fixture
def done(tmp_path):
    """A finished training."""
    return finish_training(tmp_path / "base")


def age(*folders: Path) -> None:
    """A month passes for files."""
    for folder in folders:
        for path in [*folder.rglob("*"), folder]:
            os.utime(path, (OLD, OLD))


def swept(done, **options) -> set[str]:
    return {found.where.name for found in sweep(done.model, done.platform, **{"days": 7, **options})}


def test_replaced_partitions_go_but_those_of_a_training_set_stay(done):
    table = done.table("features")
    for count in (10, 11, 12):
        commit_features(done, count=count)
    pinned, replaced, now = ([Path(p) for p in table.files(Window.of(NIGHT), version)] for version in (1, 2, 3))
    pins = {"features": {"table": "features", "uri": str(table.path), "version": 1}}
    write_result(done, "training_set", "one", {}, summary={"pins": pins})
    assert swept(done, days=0, dry_run=True) == {"features"}
    assert all(path.exists() for path in replaced), "only looked"
    assert swept(done) == set(), "they were replaced today"
    assert swept(done, days=0) == {"features"}
    assert not any(path.exists() for path in replaced)
    assert all(path.exists() for path in [*pinned, *now])
    assert (table.read(version=1).num_rows, table.read().num_rows) == (10, 12)
    assert not table.stale({NIGHT: fingerprint(f"features {NIGHT} 12 7")}), "the fences hold"
    assert swept(done, days=0) == set()


def test_files_of_a_killed_attempt_go_and_those_of_a_running_one_stay(done):
    table = done.table("features")
    commit_features(done)
    dead, running = table.attempt(), table.attempt()
    for attempt in (dead, running):
        (attempt.partition(date(2013, 2, 2)) / "part.parquet").write_bytes(b"half a file")
    age(dead.folder)
    assert swept(done) == {"features"}
    assert not dead.folder.exists()
    assert [path.read_bytes() for _, path in running.files()] == [b"half a file"]
    assert table.read().num_rows == 300


def test_attempts_of_stages_go_unless_a_result_names_them_or_somebody_works(done):
    folder = Path(done.inputs["training_set"]).parent
    (folder / "lock").touch()
    named, dead, young = folder / "attempt-1", folder / "attempt-dead", folder / "attempt-young"
    for attempt in (dead, young):
        attempt.mkdir()
        (attempt / "part").write_bytes(b"x")
    age(named, dead)
    with (folder / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert swept(done) == set()
    assert swept(done) == {"training_set"}
    assert (named.exists(), dead.exists(), young.exists()) == (True, False, True)


def test_the_command_of_a_base_that_holds_nothing_yet_makes_none(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_ML_BASE", str(tmp_path / "base"))
    done = CliRunner().invoke(app, ["vacuum", "flights"])
    assert (done.exit_code, done.output) == (0, "removed: 0 files\n")
    assert not (tmp_path / "base").exists()


def test_the_command_says_what_it_would_remove(done, monkeypatch):
    monkeypatch.setenv("AIRFLOW_ML_BASE", done.platform.base)
    monkeypatch.setattr("tests.support.finished.MODEL", done.model, raising=False)
    dead = done.table("features").attempt()
    (dead.partition(NIGHT) / "part.parquet").write_bytes(b"half a file")
    commit_features(done)
    age(dead.folder)
    shown = CliRunner().invoke(app, ["vacuum", "tests.support.finished:MODEL", "--dry-run"])
    assert (shown.exit_code, shown.output.splitlines()[-1]) == (0, "to remove: 1 files")
    assert dead.folder.exists()
