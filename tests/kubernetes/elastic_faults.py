"""Faults of an elastic training: ``python -m tests.kubernetes.elastic_faults``.

A training of three pods, which goes on with two, is disturbed in mid-epoch, in each trial in another way, and comes to
its end. Its checkpoints, its log and its pods tell what the fault cost; its metrics are compared with those of a
training that nobody disturbed.

The cluster is the kit's (``KUBECONFIG``, ``AIRFLOW_ML_TEST_KIT``, ``AIRFLOW_ML_TEST_IMAGE``): its one node is this
machine, so that processes in pods can be killed, and the network of a pod be cut.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from airflow_ml.compute import follow
from airflow_ml.compute.base import Handle
from airflow_ml.compute.kubernetes.api import ClientApi, path_of
from airflow_ml.compute.kubernetes.names import COORDINATOR, INDEX, ROLE, WORKER
from airflow_ml.compute.kubernetes.pods import KubernetesPods
from airflow_ml.lifecycle.errors import AirflowMLError
from airflow_ml.lifecycle.requests import Coordinates, JobRequest, JobResult
from tests.support.checkpoints import checkpoints_of
from tests.support.kube_audit import kill_process, processes
from tests.support.kube_cluster import Cluster, connect, namespace, real_compute, until
from tests.unit.training.conftest import model, requested, write_splits

PARAMS = {
    "epochs": 60,
    "batch_size": 64,
    "hidden": [16],
    "dropout": 0.0,
    "learning_rate": 0.0005,
    "checkpoint_steps": 20,
}
CUT_S = 20.0
GOES_ON_S = 10.0
_END_S = 400.0
_LINGER_S = 30.0
_TOLERANCE = 1e-3
"""Of the metrics: two ranks add what three have added in another order, and steps make more of the last bits."""
_METRICS = ("best_validation_loss", "validation_roc_auc")
_RESUMED = re.compile(r"resumed after epoch (\d+) of \d+(?: and (\d+) steps)?")
_GENERATION = re.compile(r"generation (\d+): (\d) of 3 pods")


class Training(threading.Thread):
    """One training, from when it is submitted to its end.

    Args:
        cluster: The namespace.
        base: Of the platform.
        splits: The training set.
        name: Of the run: a label.
        number: Makes the training another one, of the same result.

    Attributes:
        lines: That were logged, with the time at which they were seen.
        result: When it has ended well.
        error: When it has not.
    """

    def __init__(self, cluster: Cluster, base: Path, splits: Path, name: str, number: int) -> None:
        super().__init__(daemon=True)
        self.cluster, self.run_id = cluster, name
        self.lines: list[tuple[float, str]] = []
        self.result: JobResult | None = None
        self.error: AirflowMLError | None = None
        declared = model(workers=3, min_workers=2, max_workers=3, params={**PARAMS, "patience": 100 + number})
        at = Coordinates(dag_id="faults", task_id="train", run_id=name, task_instance=name)
        self.request: JobRequest = requested(splits, base, "train", declared, coordinates=at)
        # A client is of one thread.
        self.compute = KubernetesPods(real_compute(cluster.namespace, base, splits), ClientApi(connect))
        self.handle: Handle = self.compute.submit(self.request, {})

    def run(self) -> None:
        deadline = time.monotonic() + _END_S
        try:
            while self.result is None and time.monotonic() < deadline:
                state = self.compute.poll(self.handle)
                now = time.time()
                self.lines += [(now, line) for line in self.compute.logs(self.handle)]
                following = follow(state)
                if following.error is not None:
                    raise following.error
                self.result = following.result
                time.sleep(0.1)
        except AirflowMLError as error:
            self.error = error
        finally:
            self.compute.cancel(self.handle)

    def said(self, text: str, after: float = 0.0, seconds: float = 120.0) -> tuple[float, str]:
        """The first line after a moment that has a text, and when it came."""

        def found() -> list[tuple[float, str]]:
            assert self.is_alive() or self.result, f"{self.error}: {self.lines[-20:]}"
            return [(at, line) for at, line in list(self.lines) if at > after and re.search(text, line)]

        return until(found, seconds, 0.05)[0]

    def pod(self, role: str, index: int) -> str:
        """Name of a pod that runs."""
        selector = f"run_id={self.run_id},{ROLE}={role},{INDEX}={index}"
        running = [pod for pod in self.cluster.list("Pod", selector) if pod["status"].get("phase") == "Running"]
        return str(running[-1]["metadata"]["name"])

    def delete(self, *pods: tuple[str, int]) -> None:
        """End pods as if their nodes were gone."""
        for name in [self.pod(*pod) for pod in pods]:
            self.cluster.delete_pod(name, grace_s=0)

    def process(self, index: int) -> int:
        """First process of a pod that trains; not of pod 0, whose index the coordinator has, too."""
        (found,) = (pid for pid, told in processes().items() if told == (self.run_id, str(index)))
        return found


def rank_killed(training: Training) -> None:
    """The rank, whose pod has a warm one in reserve."""
    ranks = psutil.Process(training.process(1)).children()
    min(ranks, key=lambda rank: rank.create_time()).kill()


def process_killed(training: Training) -> None:
    """The first process of the pod, and so all of them."""
    assert kill_process(training.run_id, "1")


def deleted(training: Training) -> None:
    """By force: nobody is told."""
    training.delete((WORKER, 1))


def first_deleted(training: Training) -> None:
    """The pod whose rank writes the checkpoints."""
    training.delete((WORKER, 0))


def evicted(training: Training) -> None:
    """As `kubectl drain` does."""
    name = training.pod(WORKER, 1)
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": training.cluster.namespace},
    }
    training.cluster.create(path_of("v1", "Pod", training.cluster.namespace, name) + "/eviction", body)


def cut_off(training: Training) -> None:
    """The link of the pod is down: no packet, and no word of it."""
    index = Path(f"/proc/{training.process(1)}/root/sys/class/net/eth0/iflink").read_text()
    (link,) = (path.parent.name for path in Path("/sys/class/net").glob("*/ifindex") if path.read_text() == index)

    def set_link(state: str) -> None:
        subprocess.run(["ip", "link", "set", link, state], check=True)

    set_link("down")
    threading.Timer(CUT_S, set_link, ["up"]).start()


def coordinator_deleted(training: Training) -> None:
    """The next one goes on where it was."""
    training.delete((COORDINATOR, 0))


def two_deleted(training: Training) -> None:
    """Too few are left: the others wait for the next one."""
    training.delete((WORKER, 1), (WORKER, 2))


def coordinator_and_pod_deleted(training: Training) -> None:
    """Both at once."""
    training.delete((COORDINATOR, 0), (WORKER, 1))


def another_deleted_at_the_restart(training: Training) -> None:
    """The second one is lost when the others have just begun again."""
    began = time.time()
    training.delete((WORKER, 1))
    training.said("generation 2: 2 of 3 pods", began)
    training.delete((WORKER, 2))


@dataclass(frozen=True)
class Fault:
    """What is done to a training.

    Attributes:
        name: In the table.
        strike: Does it.
        goes_on: With how many pods, at once; None where it cannot until something has been replaced.
    """

    name: str
    strike: Callable[[Training], None]
    goes_on: int | None = 2


FAULTS = (
    Fault("a rank killed", rank_killed, 3),
    Fault("a pod's first process killed", process_killed),
    Fault("a pod deleted by force", deleted),
    Fault("the pod of rank 0 deleted by force", first_deleted),
    Fault("a pod evicted", evicted),
    Fault(f"a pod's network cut for {CUT_S:.0f} s", cut_off),
    Fault("the coordinator deleted by force", coordinator_deleted, None),
    Fault("two of three pods deleted at once", two_deleted, None),
    Fault("coordinator and a pod deleted at once", coordinator_and_pod_deleted, None),
    Fault("a second pod deleted at the restart", another_deleted_at_the_restart, None),
)


@dataclass
class Trial:
    """What a fault cost.

    Attributes:
        fault: What was done.
        gap_s: The longest time without a new checkpoint after it.
        three_s: From the fault until the training had three pods again.
        differs: By how much its metrics differ from those of the undisturbed training, at most.
        wrong: What is not as it must be.
    """

    fault: Fault
    gap_s: float = 0.0
    three_s: float = 0.0
    differs: float = 0.0
    wrong: list[str] = field(default_factory=list)


def disturb(training: Training, fault: Fault, expected: JobResult) -> Trial:
    """Wait until a training is under way, strike, and see it to its end."""
    trial = Trial(fault)
    with checkpoints_of(training.request) as checkpoints:
        training.start()
        training.said("generation 1: 3 of 3 pods")
        training.said("another start would be a warm one")
        # Not at a checkpoint, but between two of them.
        before = checkpoints.newest
        until(lambda: checkpoints.newest > before and checkpoints.newest[1], every_s=0.01)
        kept, at = checkpoints.newest, time.time()
        fault.strike(training)
        _, line = training.said(_RESUMED.pattern, at)
        if fault.goes_on:
            training.said(f"generation [0-9]+: {fault.goes_on} of 3 pods", at, 30)
        trial.three_s = training.said("generation [0-9]+: 3 of 3 pods", at)[0] - at
        training.join(_END_S)
    found = _RESUMED.search(line)
    assert found is not None
    epoch, step = found.groups("0")
    if (int(epoch), int(step)) < kept:
        trial.wrong.append(f"it went on from {epoch}/{step}, and had kept {kept}")
    trial.gap_s = checkpoints.gap_s(at)
    if fault.goes_on and trial.gap_s > GOES_ON_S:
        trial.wrong.append(f"{trial.gap_s:.1f} s without a checkpoint")
    if training.result is None:
        trial.wrong.append(f"it did not end well: {training.error}")
    else:
        trial.differs = max(abs(training.result.metrics[name] - expected.metrics[name]) for name in _METRICS)
        if trial.differs > _TOLERANCE:
            trial.wrong.append(f"its metrics differ by {trial.differs:.2g}")
    if left := _lingering(training.cluster):
        trial.wrong.append(f"{', '.join(left)} still there")
    return trial


def _lingering(cluster: Cluster) -> list[str]:
    """Pods that have not ended, though the training has for a while."""
    deadline = time.monotonic() + _LINGER_S
    while True:
        left = [pod for pod in cluster.pods() if pod["status"].get("phase") in ("Pending", "Running")]
        if not left or time.monotonic() > deadline:
            return [str(pod["metadata"]["name"]) for pod in left]
        time.sleep(0.5)


def table(trials: Sequence[Trial], undisturbed: JobResult) -> str:
    """Markdown."""
    lines = [
        "| fault | longest without a new checkpoint | three pods again after | metrics differ by | as it must be |",
        "|---|---:|---:|---:|---|",
    ]
    for trial in trials:
        numbers = f"{trial.gap_s:.1f} s | {trial.three_s:.0f} s | {trial.differs:.1g}"
        lines.append(f"| {trial.fault.name} | {numbers} | {'; '.join(trial.wrong) or 'yes'} |")
    told = ", ".join(f"{name} {undisturbed.metrics[name]:.6f}" for name in _METRICS)
    return "\n".join([*lines, "", f"Undisturbed: {told}."])


def main() -> int:
    """Make the trials, and print the table; 1 when anything went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fault", action="append", default=[], help="only those whose name has this text")
    given = parser.parse_args()
    wanted = [fault for fault in FAULTS if not given.fault or any(text in fault.name for text in given.fault)]
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="airflow-ml-faults-") as root:
        base, splits = Path(root) / "base", Path(root) / "splits"
        base.mkdir()
        write_splits(splits)
        for number, fault in enumerate((None, *wanted)):
            with namespace(ClientApi(connect)) as cluster:
                training = Training(cluster, base, splits, f"fault-{number}", number)
                if fault is None:
                    training.start()
                    training.join(_END_S)
                    assert training.result is not None, f"{training.error}: {training.lines[-20:]}"
                    expected = training.result
                    continue
                trials.append(disturb(training, fault, expected))
                print(f"{fault.name}: {'; '.join(trials[-1].wrong) or 'as it must be'}", flush=True)
    print(table(trials, expected))
    return 1 if any(trial.wrong for trial in trials) else 0


if __name__ == "__main__":
    sys.exit(main())
