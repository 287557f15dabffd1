"""The coordinator and its agents, with processes of this machine in the place of pods."""

import contextlib
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from airflow_ml.lifecycle.errors import TrainingFailed
from airflow_ml.lifecycle.protocol import FAILED, RESPONSE
from airflow_ml.training import model_files
from airflow_ml.training.launch import launch, rendezvous, slot_environment
from airflow_ml.training.pods import launch_on_pods
from airflow_ml.training.usage import USAGE
from airflow_ml.training.world import World
from tests.unit.training.conftest import LONG

pytestmark = pytest.mark.slow


def weights(job):
    return torch.export.load(Path(job.out) / model_files.PROGRAM).state_dict


def test_ranks_know_their_place_in_their_pod_and_across_pods():
    # Pod 1 of an elastic training is missing.
    with rendezvous("pod-0:2,pod-2:2", 4, "127.0.0.1") as (_, slots):
        found = [slot_environment(slot) for slot in slots]
    names = ("HOSTNAME", "RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
    assert [tuple(each[f"HOROVOD_{name}"] for name in names) for each in found] == [
        ("pod-0", "0", "4", "0", "2", "0", "2"),
        ("pod-0", "1", "4", "1", "2", "0", "2"),
        ("pod-2", "2", "4", "0", "2", "1", "2"),
        ("pod-2", "3", "4", "1", "2", "1", "2"),
    ]


@pytest.fixture
def pods(tmp_path, monkeypatch):
    """A world of two pods of one rank: this process is pod 0, `pods.start()` is pod 1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "key").write_text("the key of this job")
    (tmp_path / "wrong").write_text("another key")
    for name, value in {
        "PODS": "2",
        "MIN_PODS": "2",
        "SLOTS": "1",
        "COORDINATOR": f"localhost:{port}",
        "POD_IP": "127.0.0.1",
        "KEY": str(tmp_path / "key"),
    }.items():
        monkeypatch.setenv(f"AIRFLOW_ML_{name}", value)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    started = Pods(port, tmp_path)
    yield started
    started.end()


class Pods:
    def __init__(self, port, folder):
        self.port = port
        self.folder = folder
        self.processes = []

    @property
    def world(self):
        world = World.from_environment(os.environ)
        assert world is not None
        return world

    def start(self, key="key"):
        command = [sys.executable, "-m", "airflow_ml.training.agent", f"localhost:{self.port}", "1"]
        with (self.folder / f"pod-{len(self.processes)}.log").open("w") as log:
            self.processes.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, "AIRFLOW_ML_KEY": str(self.folder / key)},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                )
            )
        return self.processes[-1]

    def end(self):
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def at(event, epoch, step):
    """Whether an event is the checkpoint of a step of an epoch."""
    return event["event"] == "checkpoint" and (event["epoch"] + 1, event["step"]) == (epoch, step)


@pytest.fixture
def refusals():
    """Calls a function at the coordinator's first refusal of a connection, and counts them."""

    class Refusals(logging.Handler):
        number = 0

        def __init__(self):
            super().__init__()
            self.at_first = lambda: None

        def emit(self, record):
            if "refused a connection" in record.msg:
                self.number += 1
                if self.number == 1:
                    self.at_first()

    found, log = Refusals(), logging.getLogger("airflow_ml.training")
    log.addHandler(found)
    yield found
    log.removeHandler(found)


def test_neither_a_stranger_nor_a_rank_that_stops_nor_a_pod_that_is_lost_costs_a_bit(job, pods, refusals, undisturbed):
    """Two processes without faults, and two pods that had one after the other: the same weights."""
    remote = job("remote", workers=2, params=LONG, step_timeout_s=20)
    events, started = [], []
    # The pod comes when somebody without the key has tried to be it, and goes on trying until the end.
    refusals.at_first = lambda: started.append((len(events), pods.start()))
    pods.start(key="wrong")

    def disturb(event):
        if event["event"] == USAGE:
            return
        events.append(event)
        generation = [each["event"] for each in events].count("started")
        _, agent = started[0]
        if at(event, epoch=1, step=80) and generation == 1:
            (rank,) = psutil.Process(agent.pid).children()
            rank.suspend()
        if at(event, epoch=2, step=80) and generation == 2 and agent.poll() is None:
            agent.kill()
            threading.Timer(0.5, pods.start).start()

    finished = launch_on_pods(remote, pods.world, disturb)
    assert finished["epochs"] == LONG["epochs"]
    # Nothing had begun when the stranger was refused, and it was refused again and again.
    assert started[0][0] == 0
    assert events[0]["event"] == "started"
    assert refusals.number > 10
    resumed = [(event["epoch"], event["step"]) for event in events if event["event"] == "resumed"]
    assert len(resumed) == 2
    assert resumed[0] >= (0, 80)
    assert resumed[1] >= (1, 80)
    assert [event["event"] for event in events].count("started") == 3
    for name, tensor in weights(undisturbed).items():
        assert torch.equal(weights(remote)[name], tensor), name
    # Told that it is over, the pod that is left ends by itself.
    assert pods.processes[2].wait(10) == 0


def test_an_elastic_training_takes_pods_in_and_goes_on_without_them(job, pods, monkeypatch):
    """What `workers=1, max_workers=2` becomes: one begins, the other comes, is lost, and is replaced."""
    monkeypatch.setenv("AIRFLOW_ML_MIN_PODS", "1")
    own = {"fit": "tests.unit.training.user_fits:waits_for_company", "params": {**LONG, "dropout": 0.0}}
    alone, elastic = (job(name, **own) for name in ("alone", "elastic"))
    launch(alone, Path(alone.out).parent / "work", lambda event: None)
    started, lost, resumed, kept = [], [], [], [(0, 0)]

    def disturb(event):
        if event["event"] == "resumed":
            resumed.append((event["epoch"], event["step"]))
            # What was kept last is where they go on: at most the steps since then are trained again.
            assert resumed[-1] >= kept[-1]
        if event["event"] == "started":
            started.append((event["workers"], time.monotonic()))
            if len(started) == 3:
                pods.start()
        if event["event"] != "checkpoint":
            return
        kept.append((event["epoch"], event["step"]))
        if not pods.processes:
            # There is room for it now.
            pods.start()
        elif len(started) == 2 and event["step"] == 40 and not lost:
            lost.append(time.monotonic())
            pods.processes[0].kill()

    assert launch_on_pods(elastic, pods.world, disturb)["epochs"] == LONG["epochs"]
    assert [workers for workers, _ in started] == [1, 2, 1, 2]
    assert len(resumed) == 3
    # Seconds on a machine that has nothing else to do.
    assert started[2][1] - lost[0] < 30
    # However many they were: the same batches.
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(elastic)[name], tensor, atol=1e-4, rtol=0)


def test_a_killed_rank_of_an_elastic_training_is_started_anew_but_not_for_ever(job, pods, monkeypatch):
    monkeypatch.setenv("AIRFLOW_ML_MIN_PODS", "1")
    pods.start()
    events = []
    own = job(workers=2, fit="tests.unit.training.user_fits:leaves_children")
    with pytest.raises(TrainingFailed, match=r"rank 1 of 2 was ended by SIGABRT"):
        launch_on_pods(own, pods.world, events.append)
    assert [event["event"] for event in events].count("started") == 3


@pytest.mark.parametrize(("said", "code"), [({"stage": "train"}, 0), ({"error": "BadTrainingSet"}, FAILED)])
def test_a_pod_that_nobody_needs_any_more_ends_as_the_one_that_answered(pods, tmp_path, monkeypatch, said, code):
    """The coordinator answered and was killed, or found the result of an earlier try."""
    monkeypatch.setenv("AIRFLOW_ML_FOLDER", str(tmp_path))
    waits = pods.start()
    with pytest.raises(subprocess.TimeoutExpired):
        waits.wait(2)
    (tmp_path / RESPONSE).write_text(json.dumps(said))
    assert waits.wait(10) == code


RAISES = {"fit": "tests.unit.training.user_fits:fails_at", "params": {"step": 3, "how": "raises"}}


def test_a_rank_of_another_pod_fails_with_its_words(job, pods):
    pods.start()
    events, heard = [], {}

    def try_to_meddle(event):
        events.append(event)
        if event["event"] == "started":
            heard.update({address: _rendezvous_hears(address, pods.port) for address in ("127.0.0.1", "127.0.0.2")})

    with pytest.raises(TrainingFailed) as caught:
        launch_on_pods(job(workers=2, **RAISES), pods.world, try_to_meddle)
    # Where a pod is, others may not read or write what the ranks tell each other.
    assert heard == {"127.0.0.1": True, "127.0.0.2": False}
    assert "rank 1 of 2 failed: ValueError: what nobody can train on" in caught.value.what
    assert "in fails_at" in caught.value.what
    assert caught.value.where == "pod 1"
    assert [event["event"] for event in events].count("started") == 1


def _rendezvous_hears(address, coordinator):
    """Whether Horovod's own server in this process answers who comes from an address."""
    listening = [each.laddr.port for each in psutil.Process().net_connections("tcp") if each.status == "LISTEN"]
    (port,) = set(listening) - {coordinator}
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=10, source_address=(address, 0))
    try:
        asking.request("PUT", "/global/address", body=b"mine")
        return asking.getresponse().status == 200
    except (ConnectionError, http.client.HTTPException):
        return False
    finally:
        asking.close()


def test_a_rank_that_is_killed_in_a_pod_that_is_well_is_the_error(job, pods):
    pods.start()
    events = []
    own = job(workers=2, fit="tests.unit.training.user_fits:leaves_children")
    with pytest.raises(TrainingFailed, match=r"rank 1 of 2 was ended by SIGABRT"):
        launch_on_pods(own, pods.world, events.append)
    assert [event["event"] for event in events].count("started") == 1


def test_the_same_error_at_the_same_step_is_the_end_of_an_elastic_training(job, pods, monkeypatch):
    monkeypatch.setenv("AIRFLOW_ML_MIN_PODS", "1")
    pods.start()
    events = []
    with pytest.raises(TrainingFailed, match="rank 1 of 2 failed: ValueError: what nobody can train on"):
        launch_on_pods(job(workers=2, **RAISES), pods.world, events.append)
    assert [event["event"] for event in events].count("started") == 2


def test_the_same_hang_at_the_same_step_is_the_error(job, pods):
    pods.start()
    events = []
    own = job(workers=2, fit="tests.unit.training.user_fits:fails_at", params={"step": 3}, step_timeout_s=15)
    with pytest.raises(TrainingFailed, match=r"rank 1 of 2 hangs in step 3 of epoch 1: .*user_fits\.py:\d+"):
        launch_on_pods(own, pods.world, events.append)
    assert [event["event"] for event in events].count("started") == 2
