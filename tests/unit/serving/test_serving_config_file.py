"""The servers' config as a file: one writer at a time, and nobody else's entry touched."""

import os
from pathlib import Path

import pytest

from airflow_ml.lifecycle.errors import BaseError, ServingError
from airflow_ml.serving.targets.configuration import with_versions
from airflow_ml.serving.targets.leases import Lease
from airflow_ml.serving.targets.stores import FileStore, Kept, Moved
from airflow_ml.serving.targets.writer import Writer
from tests.support import config_stores


def make(folder):
    return FileStore(Path(folder))


@pytest.fixture
def store(tmp_path):
    return make(tmp_path / "serving")


def test_a_foreign_model_and_its_labels_survive_100_rollouts(store):
    config_stores.a_foreign_model_survives(store)


def test_writers_at_once_lose_nothing(tmp_path):
    config_stores.two_writers_lose_nothing([make(tmp_path) for _ in range(3)])


def test_a_corrupt_config_is_refused_and_left_alone(store):
    config_stores.a_corrupt_config_is_left_alone(store)


def test_a_lease_is_taken_over_only_when_it_has_expired_and_its_loser_stops(store):
    config_stores.a_lease_is_taken_over_only_when_it_has_expired(store)


def test_who_knows_no_lease_is_not_undone(store):
    config_stores.who_knows_no_lease_is_not_undone(store)


def test_a_killed_writer_holds_up_the_next_until_its_lease_expires(tmp_path):
    config_stores.a_killed_writer_holds_up_the_next_until_its_lease_expires(make, str(tmp_path))


def test_compare_and_set(store):
    nothing = store.read()
    assert nothing == Kept(None, None)
    first = store.replace(nothing, "model_config_list {\n}\n", Lease("me", 5.25))
    assert store.read() == first
    with pytest.raises(Moved):
        store.replace(nothing, "", None)
    with pytest.raises(Moved):
        store.replace(Kept(first.text, None), first.text, Lease("you", 9.0))
    assert store.replace(first, first.text, None) == store.read() == Kept(first.text, None)


def test_what_cannot_be_read_or_written_is_told_with_a_remedy(store):
    writer = Writer(store)
    edit = with_versions("m", [1], "/models/m", store.where)
    store.path.parent.mkdir()
    store.path.write_bytes(b"\xff\xfe")
    with pytest.raises(ServingError, match="not a text"):
        writer.change(edit)
    store.path.unlink()
    (store.path.parent / ".models.config.lease").write_text("{")
    with pytest.raises(ServingError, match="the lease is damaged"):
        writer.change(edit)
    (store.path.parent / ".models.config.lease").unlink()
    store.path.mkdir()
    with pytest.raises(BaseError, match="check the disk"):
        writer.change(edit)


def test_nothing_is_written_where_nothing_changes(store):
    writer = Writer(store)
    edit = with_versions("m", [1], "/models/m", store.where)
    writer.change(edit)
    before = os.stat(store.path).st_ino, sorted(os.listdir(store.path.parent))
    found = store.read()
    put_away = store.replace(found, found.text, Lease("somebody", 4e9))
    writer.change(edit)
    assert store.read() == put_away
    store.replace(put_away, found.text, None)
    assert before == (os.stat(store.path).st_ino, sorted(os.listdir(store.path.parent)))
