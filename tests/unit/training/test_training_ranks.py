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
from airflow_ml.training.ranks import PARENT
from tests.unit.training.conftest import LONG

pytestmark = pytest.mark.slow

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


def test_one_rank_and_two_agree_after_a_step(job: Job):
    # One step: the whole split is one global batch. What dropout leaves out is the same, too.
    params = {"epochs": 1, "batch_size": 4200, "warmup_epochs": 0, "dropout": 0.3}
    jobs = [job(f"w{n}", workers=n, params=params) for n in (1, 2)]
    events: list[dict] = []
    for each in jobs:
        run(each, events.append)
    alone, together = (weights(each) for each in jobs)
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, atol=1e-5, rtol=0)
    assert [event["workers"] for event in events if event["event"] == "started"] == [1, 2]
    assert losses(jobs[0]) == pytest.approx(losses(jobs[1]), abs=1e-5)


def test_whatever_ends_a_training_leaves_nobody_and_the_last_try_ends_with_the_same_bits(
    job: Job, undisturbed: TrainingJob, tmp_path: Path
):
    """A rank is killed, then another is stopped, then the launcher is killed; nobody disturbs the fourth try."""
    broken = job(
        "broken", workers=2, params=LONG, fit="tests.unit.training.user_fits:leaves_a_child", step_timeout_s=25
    )
    resumed: list[tuple[int, int]] = []

    def disturb(epoch: int, step: int, how: Callable[[psutil.Process], None]) -> Callable[[dict], None]:
        done: list[int] = []

        def on_event(event: dict) -> None:
            if event["event"] == "resumed":
                resumed.append((event["epoch"], event["step"]))
            if event["event"] == "checkpoint" and (event["epoch"], event["step"]) >= (epoch, step) and not done:
                assert len(_sleepers()) == (0 if resumed else 1)
                victim = next(rank for rank in ranks_of(psutil.Process()) if rank.environ()["HOROVOD_RANK"] == "1")
                done.append(victim.pid)
                how(victim)

        return on_event

    with pytest.raises(TrainingFailed, match="rank 1 of 2 was ended by SIGKILL"):
        run(broken, disturb(0, 80, psutil.Process.kill))
    assert ranks_of(psutil.Process()) == []
    # What a rank started ends with it.
    assert _sleepers_after(5) == []
    assert Checkpoints(broken.state, broken.fingerprint).newest() is not None

    with pytest.raises(TrainingFailed, match=r"rank 1 of 2 hangs .*its process has not run for"):
        run(broken, disturb(1, 40, psutil.Process.suspend))
    assert ranks_of(psutil.Process()) == []

    _kill_the_launcher(broken, tmp_path, after_epoch=2)

    finished = run(broken, disturb(99, 0, psutil.Process.kill))
    assert resumed[0] >= (0, 80)
    assert resumed[-1] >= (2, 0)
    assert 2 <= finished["resumed_from_epoch"] < LONG["epochs"]
    assert_same_bits(weights(broken), weights(undisturbed))
    assert losses(broken) == losses(undisturbed)


def _kill_the_launcher(broken: TrainingJob, folder: Path, after_epoch: int) -> None:
    """Launch from a process of its own, kill that, and see that its ranks go with it."""
    (folder / "job.json").write_text(broken.model_dump_json())
    code = (
        "import sys; from pathlib import Path\n"
        "from airflow_ml.training.job import TrainingJob\n"
        "from airflow_ml.training.launch import launch\n"
        "job = TrainingJob.model_validate_json(Path(sys.argv[1]).read_text())\n"
        "launch(job, Path(sys.argv[2]), lambda event: print(event['event'], event.get('epoch'), flush=True))\n"
    )
    command = [sys.executable, "-c", code, str(folder / "job.json"), str(folder / "work")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        for line in launcher.stdout:
            # So there is a checkpoint after the epoch, too.
            if line.split() == ["checkpoint", str(after_epoch)]:
                break
        ranks = ranks_of(psutil.Process(launcher.pid))
        assert len(ranks) == 2
        launcher.kill()
        gone, alive = psutil.wait_procs(ranks, timeout=5)
        assert len(gone) == 2
        assert alive == []


def test_interrupting_the_launcher_ends_the_ranks(job: Job):
    running: list[psutil.Process] = []

    def interrupt(event: dict) -> None:
        if event["event"] == "started":
            running.extend(ranks_of(psutil.Process()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job(workers=2, fit="tests.unit.training.user_fits:fails_at", params={"step": 3}), interrupt)
    assert len(running) == 2
    assert ranks_of(psutil.Process()) == []


def test_early_stopping_keeps_the_best(job: Job):
    params = {"epochs": 60, "batch_size": 64, "hidden": [64], "learning_rate": 0.02, "patience": 2, "warmup_epochs": 0}
    early = job(params=params)
    finished = run(early)
    assert finished["epochs"] == finished["best_epoch"] + 2 < 60
    assert finished["validation_loss"] == pytest.approx(min(losses(early)), abs=1e-9)


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


def test_a_rank_that_sleeps_is_found_with_its_line(job: Job):
    own = job(workers=2, fit="tests.unit.training.user_fits:fails_at", params={"step": 3}, step_timeout_s=15)
    with pytest.raises(
        TrainingFailed, match=r"rank 1 of 2 hangs in step 3 of epoch 1: no progress .*user_fits\.py:\d+"
    ):
        run(own)
    assert ranks_of(psutil.Process()) == []


def test_a_fit_that_cannot_be_used_is_refused(job: Job):
    """Ranks that drifted apart; before that, they have seen that a network of the wrong shape is no use either."""
    with pytest.raises(TrainingFailed, match="the ranks ended with different weights"):
        run(job(workers=2, fit="tests.unit.training.user_fits:drifting"))
    with pytest.raises(TrainingFailed, match="has no attribute 'nowhere'"):
        run(job(fit="tests.unit.training.user_fits:nowhere"))


def test_a_full_disk_in_a_fit_of_ones_own_is_the_error_of_any_stage(job: Job):
    with pytest.raises(BaseError, match=r"^/dev/full: cannot write: No space left on device\. Remedy: free space"):
        run(job(fit="tests.unit.training.user_fits:fills_the_disk"))


def test_gpus_that_are_not_there_are_refused(job: Job):
    if torch.cuda.is_available():
        pytest.skip("there are")
    with pytest.raises(TrainingFailed, match="needs a GPU, and torch sees 0"):
        run(job(gpus_per_worker=1))


def _sleepers_after(seconds: float) -> list[int]:
    """Those that are left then, or none as soon as all are gone."""
    deadline = time.monotonic() + seconds
    while (left := _sleepers()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _sleepers() -> list[int]:
    """Sleeping children of ranks that this process started, wherever they were adopted."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["cmdline"] == ["sleep", "600"] and process.info["status"] != psutil.STATUS_ZOMBIE:
            with contextlib.suppress(psutil.Error):
                if process.environ().get(PARENT) == str(os.getpid()):
                    found.append(process.pid)
    return found


def test_a_checkpoint_of_another_training_is_refused(job: Job, undisturbed: TrainingJob):
    with pytest.raises(TrainingFailed, match="of another training"):
        run(job(state=undisturbed.state, fingerprint="e" * 64))
