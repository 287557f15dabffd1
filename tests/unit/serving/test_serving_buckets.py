"""Versions in S3 and the loop that brings them to a server's disk: whole, before the config, and gone after it."""

import subprocess
import sys
import threading
import time

import pytest

from airflow_ml.lifecycle.errors import BaseError, ServingError
from airflow_ml.serving.files import tree_sha256
from airflow_ml.serving.targets.buckets import Manifest, S3Shelf
from airflow_ml.serving.targets.configuration import configured
from airflow_ml.serving.targets.opening import open_servers
from airflow_ml.serving.targets.syncing import Sync
from airflow_ml.spec import Platform, ServingTarget
from tests.support.config_stores import FOREIGN
from tests.support.s3 import BUCKET, s3_server


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as client:
        yield client


@pytest.fixture
def prefix(bucket, request):
    """A place of the test's own."""
    return request.node.name


@pytest.fixture
def saved_model(tmp_path):
    folder = tmp_path / "saved_model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph" * 1000)
    (folder / "variables" / "variables.index").write_bytes(b"index")
    return folder


@pytest.fixture
def shelf(prefix):
    return S3Shelf(f"s3://{BUCKET}/{prefix}", "/models")


@pytest.fixture
def sync(shelf, tmp_path):
    (tmp_path / "mounted").write_text("model_config_list {\n}\n")
    return Sync(shelf, tmp_path / "disk", tmp_path / "mounted", tmp_path / "disk" / "models.config")


def names(sync, **models):
    """Write a config that names versions, and a model of somebody else."""
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{sync.folder}/{name}" model_platform: "tensorflow" '
        f"model_version_policy {{ specific {{ {' '.join(f'versions: {v}' for v in versions)} }} }} }}\n"
        for name, versions in models.items()
    )
    sync.config.write_text(f"model_config_list {{ {FOREIGN}\n{entries} }}")
    return sync.config.read_text()


def on_disk(sync):
    return sorted(
        f"{path.parent.name}/{path.name}" for path in sync.folder.glob("*/*") if not path.name.startswith(".")
    )


def test_what_is_published_is_there_whole_and_never_changes(shelf, saved_model, tmp_path, prefix):
    assert not shelf.has("m", 3)
    assert shelf.publish(saved_model, "m", 3) == f"s3://{BUCKET}/{prefix}/m/3"
    assert shelf.publish(saved_model, "m", 3) == f"s3://{BUCKET}/{prefix}/m/3"
    assert shelf.has("m", 3)
    assert shelf.fetch("m", 3, tmp_path / "disk")
    assert tree_sha256(tmp_path / "disk" / "m" / "3") == tree_sha256(saved_model)
    (saved_model / "saved_model.pb").write_bytes(b"other")
    with pytest.raises(ServingError, match="published with other content"):
        shelf.publish(saved_model, "m", 3)


def test_a_release_to_s3_names_the_folder_that_servers_see(prefix, saved_model, tmp_path):
    target = ServingTarget(folder=f"s3://{BUCKET}/{prefix}", seen_as="/models")
    with open_servers(Platform(base=str(tmp_path), serving=target), {}) as servers:
        with pytest.raises(ServingError, match="version 1 of m is not published"):
            servers.serve("m", [1])
        servers.publish(saved_model, "m", 1)
        servers.serve("m", [1])
        assert servers.published("m", 1)
    text = (tmp_path / "serving" / "models.config").read_text()
    assert configured(text, "m", "").versions == (1,)
    assert 'base_path: "/models/m"' in text


def test_a_half_sent_version_is_never_visible(bucket, sync, shelf, saved_model, prefix):
    """The manifest comes last; a publisher that was killed before leaves files and no version."""
    bucket.put_object(Bucket=BUCKET, Key=f"{prefix}/m/1/saved_model.pb", Body=b"gra")
    text = names(sync, m=[1])
    assert sync.round() == [f"version 1 of m is not published in s3://{BUCKET}/{prefix}/m"]
    assert on_disk(sync) == []
    assert (sync.folder / "m").is_dir(), "a missing base path would stop the server from looking at any model"
    assert sync.copy.read_text() == text, "one model holds up nobody"
    shelf.publish(saved_model, "m", 1)
    assert sync.round() == []
    assert on_disk(sync) == ["m/1"]


def test_a_file_that_is_not_what_the_manifest_says_is_never_visible(bucket, sync, shelf, saved_model, prefix):
    shelf.publish(saved_model, "m", 1)
    bucket.put_object(Bucket=BUCKET, Key=f"{prefix}/m/1/saved_model.pb", Body=b"gra")
    names(sync, m=[1])
    (problem,) = sync.round()
    assert "not what its manifest says" in problem
    bucket.delete_object(Bucket=BUCKET, Key=f"{prefix}/m/1/saved_model.pb")
    (problem,) = sync.round()
    assert "S3 does not do it" in problem
    assert on_disk(sync) == []


def test_a_manifest_reaches_no_file_outside():
    for files in ('{"../x": [1, "0"]}', '{"/etc/x": [1, "0"]}', "{}", '{"a": 1}', "[]"):
        with pytest.raises(ServingError, match="the manifest"):
            Manifest.from_json(f'{{"files": {files}}}', "here")


def test_versions_come_before_the_config_and_go_after_it(sync, shelf, saved_model, monkeypatch):
    for version in (1, 2):
        shelf.publish(saved_model, "m", version)
    (sync.folder / "baked").mkdir(parents=True)
    (sync.folder / "baked" / "1").mkdir()
    names(sync, m=[1])
    sync.round()
    assert on_disk(sync) == ["baked/1", "m/1"]
    fetch, seen = shelf.fetch, []

    def watched(model, version, folder):
        seen.append((version, sync.copy.read_text()))
        return fetch(model, version, folder)

    monkeypatch.setattr(shelf, "fetch", watched)
    before = sync.copy.read_text()
    after = names(sync, m=[1, 2])
    sync.round()
    assert seen == [(2, before)]
    assert sync.copy.read_text() == after
    names(sync, m=[2])
    sync.round()
    assert on_disk(sync) == ["baked/1", "m/1", "m/2"], "the server may not have read the new config yet"
    sync.round()
    assert on_disk(sync) == ["baked/1", "m/2"], "and what we did not bring stays"
    sync.config.write_text("model_config_list {\n}\n")
    sync.round()
    sync.round()
    assert on_disk(sync) == ["baked/1"]


def test_what_a_killed_fetch_left_is_no_version_and_no_hindrance(sync, shelf, saved_model):
    shelf.publish(saved_model, "m", 1)
    half = sync.folder / "m" / ".staging-1"
    half.mkdir(parents=True)
    (half / "saved_model.pb").write_bytes(b"gr")
    (half / "litter").write_bytes(b"")
    names(sync, m=[1])
    assert sync.round() == []
    assert tree_sha256(sync.folder / "m" / "1") == tree_sha256(saved_model)


def test_a_corrupt_or_missing_config_changes_nothing(sync, shelf, saved_model):
    shelf.publish(saved_model, "m", 1)
    text = names(sync, m=[1])
    sync.round()
    sync.config.write_text("model_config_list { config {")
    for _ in range(3):
        with pytest.raises(ServingError, match="not a model server config"):
            sync.round()
    sync.config.unlink()
    with pytest.raises(ServingError, match="is the ConfigMap there and mounted"):
        sync.round()
    assert (on_disk(sync), sync.copy.read_text()) == (["m/1"], text)


def test_a_folder_that_no_model_has_is_told(sync):
    names(sync)
    assert "is that the `seen_as` of the platform's serving target?" in sync.round()[0]


def test_a_disk_that_cannot_be_written_is_told_with_a_remedy(sync, shelf, saved_model):
    shelf.publish(saved_model, "m", 1)
    names(sync, m=[1])
    sync.folder.write_text("no folder")
    with pytest.raises(BaseError, match="cannot write"):
        sync.round()


def test_the_loop_says_a_complaint_once_and_goes_on(sync, shelf, saved_model, caplog):
    names(sync, m=[1])
    stop = threading.Event()
    thread = threading.Thread(target=sync.follow, args=(0.02, stop.wait))
    thread.start()
    try:
        until(lambda: "not published" in caplog.text)
        time.sleep(0.2)
        shelf.publish(saved_model, "m", 1)
        until(lambda: on_disk(sync) == ["m/1"])
    finally:
        stop.set()
        thread.join(10)
    assert caplog.text.count("not published") == 1


def test_the_command_once_and_until_sigterm(sync, shelf, saved_model, prefix):
    """As the init container and the sidecar run it."""
    shelf.publish(saved_model, "m", 1)
    names(sync, m=[1])
    command = [sys.executable, "-m", "airflow_ml.cli", "sync-models", "--from", f"s3://{BUCKET}/{prefix}"]
    command += ["--to", str(sync.folder), "--config", str(sync.config), "--copy-config", str(sync.copy)]
    done = subprocess.run([*command, "--once"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, on_disk(sync)) == (0, ["m/1"]), done.stderr
    shelf.publish(saved_model, "m", 2)
    process = subprocess.Popen([*command, "--every", "0.1"], stderr=subprocess.PIPE, text=True)
    try:
        names(sync, m=[1, 2])
        until(lambda: on_disk(sync) == ["m/1", "m/2"], 60)
        for _ in range(200):  # impatient, or two who mean the same
            process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
