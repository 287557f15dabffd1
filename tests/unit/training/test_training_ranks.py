"""Real Horovod ranks: equal for any number of them, the same again by seed, and alive or dead together."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from airflow_ml.lifecycle.errors import BaseError, TrainingFailed
from airflow_ml.training import model_files
from airflow_ml.training.checkpoints import Checkpoints
from airflow_ml.training.job import TrainingJob
from airflow_ml.training.launch import launch

pytestmark = pytest.mark.slow

LONG = {"epochs": 4, "batch_size": 32, "dropout": 0.2, "learning_rate": 0.005, "patience": 4}
"""Long enough an epoch to be killed inside of it."""

Job = Callable[..., TrainingJob]


def run(job: TrainingJob, on_event=lambda event: None) -> dict:
    return launch(job, Path(job.out).parent / "work", on_event)


def weights(job: TrainingJob) -> dict[str, torch.Tensor]:
    return torch.export.load(Path(job.out) / model_files.PROGRAM).state_dict


def losses(job: TrainingJob) -> list[float]:
    history = json.loads((Path(job.out) / model_files.HISTORY).read_text())["history"]
    return [epoch["validation_loss"] for epoch in history]


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def ranks_of(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "airflow_ml.training.ranks" in child.cmdline():
                found.append(child)
    return found


@pytest.fixture(scope="module")
def uninterrupted(splits, tmp_path_factory) -> TrainingJob:
    """A training of two ranks that nobody disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    job = TrainingJob(
        fingerprint="f" * 64,
        train=str(splits / "train"),
        validation=str(splits / "validation"),
        preprocessing=str(splits / "preprocessing.json"),
        params={"hidden": [16], **LONG},
        workers=2,
        state=str(folder / "state"),
        out=str(folder / "model"),
    )
    finished = run(job)
    assert finished["epochs"] == 4
    return job


def test_one_rank_and_two_agree_after_a_step(job: Job):
    # One step: the whole split is one global batch.
    jobs = [job(f"w{n}", workers=n, params={"epochs": 1, "batch_size": 4200, "warmup_epochs": 0}) for n in (1, 2)]
    events: list[dict] = []
    for each in jobs:
        run(each, events.append)
    alone, together = (weights(each) for each in jobs)
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, atol=1e-5, rtol=0)
    assert [event["workers"] for event in events if event["event"] == "started"] == [1, 2]
    assert losses(jobs[0]) == pytest.approx(losses(jobs[1]), abs=1e-5)


def test_a_killed_rank_ends_all_and_the_next_try_ends_with_the_same_bits(job: Job, uninterrupted: TrainingJob):
    broken = job("broken", workers=2, params=LONG)
    victims: list[int] = []

    def kill_one(event: dict) -> None:
        if event["event"] == "epoch" and event["epoch"] == 2:
            victim = next(rank for rank in ranks_of(psutil.Process()) if rank.environ()["HOROVOD_RANK"] == "1")
            victims.append(victim.pid)
            victim.kill()

    with pytest.raises(TrainingFailed, match="rank 1 of 2 was ended by SIGKILL"):
        run(broken, kill_one)
    assert victims
    assert ranks_of(psutil.Process()) == []
    assert (Path(broken.state) / "epoch-00001.pt").exists()

    finished = run(broken)
    assert finished["resumed_from_epoch"] in (1, 2)
    assert_same_bits(weights(broken), weights(uninterrupted))
    assert losses(broken) == losses(uninterrupted)


def test_a_killed_launcher_leaves_nobody_behind(job: Job, uninterrupted: TrainingJob, tmp_path: Path):
    broken = job("broken", workers=2, params=LONG)
    (tmp_path / "job.json").write_text(broken.model_dump_json())
    code = (
        "import sys; from pathlib import Path\n"
        "from airflow_ml.training.job import TrainingJob\n"
        "from airflow_ml.training.launch import launch\n"
        "job = TrainingJob.model_validate_json(Path(sys.argv[1]).read_text())\n"
        "launch(job, Path(sys.argv[2]), lambda event: print(event['event'], event.get('epoch'), flush=True))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "job.json"), str(tmp_path / "work")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        for line in launcher.stdout:
            if line.split() == ["epoch", "2"]:  # so the first one has its checkpoint
                break
        ranks = ranks_of(psutil.Process(launcher.pid))
        assert len(ranks) == 2
        launcher.kill()
        gone, alive = psutil.wait_procs(ranks, timeout=5)
        assert len(gone) == 2
        assert alive == []

    finished = run(broken)
    assert 1 <= finished["resumed_from_epoch"] < 4
    assert_same_bits(weights(broken), weights(uninterrupted))


def test_interrupting_the_launcher_ends_the_ranks(job: Job):
    def interrupt(event: dict) -> None:
        if event["event"] == "epoch":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job(workers=2, params=LONG), interrupt)
    assert ranks_of(psutil.Process()) == []


def test_another_seed_gives_other_weights_and_early_stopping_keeps_the_best(job: Job):
    params = {"epochs": 60, "batch_size": 64, "hidden": [64], "learning_rate": 0.02, "patience": 2, "warmup_epochs": 0}
    one, other = (job(f"seed{n}", seed=n, params=params) for n in (1, 2))
    events: list[dict] = []
    for each in (one, other):
        finished = run(each, events.append)
        assert finished["epochs"] == finished["best_epoch"] + 2 < 60
        assert finished["validation_loss"] == pytest.approx(min(losses(each)), abs=1e-9)
    assert not torch.equal(weights(one)["layers.0.weight"], weights(other)["layers.0.weight"])


def test_a_fit_of_ones_own_with_our_loop(job: Job):
    own = job(
        workers=2, fit="tests.unit.training.user_fits:own_network", params={"temperature": 3, "learning_rate": 0.05}
    )
    assert run(own)["validation_roc_auc"] > 0.7
    assert weights(own)["layer.weight"].shape == (1, 3)


def test_a_fit_of_ones_own_fails_with_its_words_and_resumes(job: Job):
    own = job(workers=2, fit="tests.unit.training.user_fits:own_loop", params={"crash": True})
    events: list[dict] = []
    with pytest.raises(TrainingFailed) as caught:
        run(own, events.append)
    assert "rank 1 of 2 failed: RuntimeError: the disk of rank 1 melted" in caught.value.what
    assert "own_loop" in caught.value.what  # the last log lines show where
    assert caught.value.where.endswith("rank-1.log")
    finished = run(own, events.append)
    assert finished["resumed_from_epoch"] == 1
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("fit", "workers", "said"),
    [
        ("drifting", 2, "the ranks ended with different weights"),
        ("wrong_shape", 1, "shape"),
        ("nowhere", 1, "has no attribute 'nowhere'"),
    ],
)
def test_a_fit_that_cannot_be_used_is_refused(job: Job, fit, workers, said):
    with pytest.raises(TrainingFailed, match=said):
        run(job(workers=workers, fit=f"tests.unit.training.user_fits:{fit}"))


def test_a_full_disk_in_a_fit_of_ones_own_is_the_error_of_any_stage(job: Job):
    with pytest.raises(BaseError, match=r"^/dev/full: cannot write: No space left on device\. Remedy: free space"):
        run(job(fit="tests.unit.training.user_fits:fills_the_disk"))


def test_gpus_that_are_not_there_are_refused(job: Job):
    if torch.cuda.is_available():
        pytest.skip("there are")
    with pytest.raises(TrainingFailed, match="needs a GPU, and torch sees 0"):
        run(job(gpus_per_worker=1))


def test_what_a_rank_started_ends_with_it(job: Job):
    with pytest.raises(TrainingFailed, match="rank 1 of 2 was ended by SIGABRT"):
        run(job(workers=2, fit="tests.unit.training.user_fits:leaves_children"))
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and (left := _sleepers()):
        time.sleep(0.1)
    assert left == []


def _sleepers() -> list[int]:
    """Our sleeping grandchildren, wherever they were adopted."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["cmdline"] == ["sleep", "600"] and process.info["status"] != psutil.STATUS_ZOMBIE:
            with contextlib.suppress(psutil.Error):
                if "AIRFLOW_ML_EVENTS_FD" in process.environ():
                    found.append(process.pid)
    return found


def test_a_checkpoint_of_another_training_is_refused(job: Job, uninterrupted: TrainingJob):
    with pytest.raises(TrainingFailed, match="of another training"):
        run(job(state=uninterrupted.state, fingerprint="e" * 64))


def test_torn_checkpoints_are_not_seen(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, "f" * 64)
    assert checkpoints.newest() is None
    for epoch in (1, 2, 3):
        checkpoints.save(epoch, {"weight": torch.full((2,), float(epoch))})
    (tmp_path / ".epoch-00004.pt.abc").write_bytes(b"half")
    epoch, state = checkpoints.newest()
    assert epoch == 3
    assert state["weight"].tolist() == [3, 3]
    checkpoints.save(4, {"weight": torch.zeros(2)})
    assert sorted(os.listdir(tmp_path)) == ["epoch-00003.pt", "epoch-00004.pt"]
