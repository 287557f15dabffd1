"""Checkpoints in a folder and in a real S3 server: one contract, and a killed training that goes on from a bucket."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from airflow_ml.lifecycle.errors import BaseError, TrainingFailed
from airflow_ml.spec import Platform
from airflow_ml.stages.runner import identify, stage_of
from airflow_ml.stages.train import checkpoints_of
from airflow_ml.training.checkpoints import Checkpoints
from airflow_ml.training.job import TrainingJob
from airflow_ml.training.stores import open_store
from tests.support.s3 import BUCKET, s3_server
from tests.unit.training.conftest import LONG
from tests.unit.training.test_training_ranks import assert_same_bits, losses, ranks_of, run, weights

THIS = "f" * 64
_WRITER = """
import sys, torch
from airflow_ml.training.checkpoints import Checkpoints

checkpoints = Checkpoints(sys.argv[1], "f" * 64)
for epoch in range(1, 1000):
    checkpoints.save(epoch, {"weight": torch.full((4_000_000,), float(epoch))})
    print(epoch, flush=True)
"""


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as client:
        yield client


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place of the test's own, in each store."""
    if request.param == "folder":
        return str(tmp_path / "checkpoints")
    request.getfixturevalue("bucket")
    return f"s3://{BUCKET}/checkpoints/{request.node.name}"


def test_the_newest_is_found_and_the_two_newest_are_kept(place: str):
    checkpoints = Checkpoints(place, THIS)
    assert checkpoints.newest() is None
    for epoch, step in ((0, 40), (0, 80), (1, 0), (1, 40)):
        checkpoints.save(epoch, {"weight": torch.full((2,), float(epoch)), "step": step}, step)
        found, state = Checkpoints(place, THIS).newest()
        assert (found, state["step"], state["weight"].tolist()) == (epoch, step, [epoch, epoch])
    assert sorted(open_store(place).names()) == ["epoch-00001-step-0000040.pt", "epoch-00001.pt"]


def test_the_same_checkpoint_may_be_written_again(place: str):
    """What a rank does that was killed after it had written."""
    for value in (1.0, 2.0):
        Checkpoints(place, THIS).save(1, {"weight": value})
    assert Checkpoints(place, THIS).newest() == (1, {"weight": 2.0})
    assert open_store(place).names() == ["epoch-00001.pt"]


def test_a_checkpoint_of_another_training_is_refused_and_stays(place: str):
    Checkpoints(place, "e" * 64).save(1, {})
    with pytest.raises(TrainingFailed, match=r"of another training \(eeeeeeeeeeee\)") as caught:
        Checkpoints(place, THIS).newest()
    assert caught.value.where == f"{place}/epoch-00001.pt"
    assert caught.value.remedy == f"remove {place} to train from the beginning"
    assert Checkpoints(place, "e" * 64).newest() == (1, {})


def test_what_a_writer_that_was_killed_has_left_is_whole(place: str):
    """Sixteen megabytes a checkpoint: in S3 an upload of two parts. It is killed in the midst of one of them."""
    with subprocess.Popen([sys.executable, "-c", _WRITER, place], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "1\n"
        assert writer.stdout.readline() == "2\n"
        time.sleep(0.02)
        writer.kill()
        told = 2 + len(writer.stdout.read().split())
    checkpoints = Checkpoints(place, THIS)
    epoch, state = checkpoints.newest()
    # One more may have been written than was told.
    assert epoch in (told, told + 1)
    assert torch.equal(state["weight"], torch.full((4_000_000,), float(epoch)))
    checkpoints.save(epoch + 1, {})
    assert len(open_store(place).names()) == 2


def test_an_upload_that_nobody_has_completed_is_not_seen(bucket: Any):
    checkpoints = Checkpoints(f"s3://{BUCKET}/torn", THIS)
    checkpoints.save(1, {})
    torn = {"Bucket": BUCKET, "Key": "torn/epoch-00002.pt"}
    upload = bucket.create_multipart_upload(**torn)["UploadId"]
    bucket.upload_part(**torn, UploadId=upload, PartNumber=1, Body=b"half")
    assert checkpoints.newest() == (1, {})


def test_torn_files_of_a_folder_are_not_seen_and_go_with_the_next_checkpoint(tmp_path: Path):
    checkpoints = Checkpoints(str(tmp_path), THIS)
    checkpoints.save(1, {})
    (tmp_path / ".epoch-00002.pt.abc").write_bytes(b"half")
    assert checkpoints.newest() == (1, {})
    checkpoints.save(2, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00001.pt", "epoch-00002.pt"]


def test_a_bucket_that_is_not_there_is_found_before_the_training(bucket: Any):
    with pytest.raises(BaseError) as caught:
        Checkpoints("s3://nobodys-bucket/checkpoints", THIS).newest()
    assert caught.value.what == "S3 does not do it: there is no bucket 'nobodys-bucket'"
    assert caught.value.where == "s3://nobodys-bucket/checkpoints"
    assert caught.value.remedy.startswith("look at the bucket's name and rights, AWS_REGION and AWS_ENDPOINT_URL")


def test_a_server_that_is_away_is_one_clear_error(bucket: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(BaseError, match=r"S3 does not do it: .*connect") as caught:
        Checkpoints(f"s3://{BUCKET}/checkpoints", THIS).save(1, {})
    assert caught.value.where == f"s3://{BUCKET}/checkpoints/epoch-00001.pt"
    assert caught.value.remedy.endswith("then retry")


def test_the_platform_says_where_a_training_keeps_them(make_request: Callable[..., Any], tmp_path: Path):
    request = make_request(tmp_path, "train")
    beside = identify(request, stage_of("train"))
    assert checkpoints_of(beside) == str(beside.folder / "state" / "checkpoints")
    elsewhere = Platform(base=str(tmp_path), checkpoints="s3://acme-ml/checkpoints/")
    there = identify(request.model_copy(update={"platform": elsewhere}), stage_of("train"))
    # The same training: where it keeps its checkpoints is no part of what it is.
    assert there.fingerprint == beside.fingerprint
    assert checkpoints_of(there) == f"s3://acme-ml/checkpoints/toy/{beside.fingerprint[:32]}"


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_from_the_bucket_to_the_same_bits(
    job: Callable[..., TrainingJob], undisturbed: TrainingJob, bucket: Any
):
    """By -9, in mid-epoch: rank 0, which writes them, and with it the others."""
    kept = job("kept", workers=2, params=LONG, state=f"s3://{BUCKET}/trainings/kept")

    def kill(event: dict) -> None:
        if event["event"] == "checkpoint" and (event["epoch"], event["step"]) == (1, 80):
            next(rank for rank in ranks_of(psutil.Process()) if rank.environ()["HOROVOD_RANK"] == "0").kill()

    with pytest.raises(TrainingFailed, match="rank 0 of 2 was ended by SIGKILL"):
        run(kept, kill)
    resumed: list[tuple[int, int]] = []
    run(kept, lambda event: resumed.append((event["epoch"], event["step"])) if event["event"] == "resumed" else None)
    assert (1, 80) <= resumed[0] < (LONG["epochs"], 0)
    assert_same_bits(weights(kept), weights(undisturbed))
    assert losses(kept) == losses(undisturbed)
    # Nothing of it was written beside the model.
    assert not (Path(kept.out).parent / "state").exists()
    assert len(open_store(kept.state).names()) == 2
