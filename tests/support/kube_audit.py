"""What really ran in a cluster while somebody killed things: counted from its API server and from its node.

The API server tells of jobs and pods, and forgets a pod that is deleted by force before it has ended; the node's
processes show that one, too.
"""

import json
import os
import signal
import threading
from collections import Counter, defaultdict
from pathlib import Path

from airflow_ml.compute.kubernetes.api import ApiError
from airflow_ml.compute.kubernetes.names import INDEX
from airflow_ml.compute.kubernetes.observing import may_have_ended
from tests.support.kube_cluster import Cluster

_ENTRY = b"airflow_ml.stages.pod"
_EVERY_S = 0.3


def processes() -> dict[int, tuple[str, str]]:
    """First processes of the pods on this machine: run of the task and index of the pod."""
    found, parents = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if _ENTRY not in (entry / "cmdline").read_bytes().split(b"\0"):
                continue
            variables = dict(
                line.split("=", 1) for line in (entry / "environ").read_text().split("\0") if line.count("=")
            )
            request = json.loads((Path(variables["AIRFLOW_ML_FOLDER"]) / "request.json").read_text())
            parents[int(entry.name)] = parent_of(int(entry.name))
            found[int(entry.name)] = (request["coordinates"]["run_id"], variables["JOB_COMPLETION_INDEX"])
        except (OSError, KeyError, ValueError):
            continue  # it has just ended, or is no pod of a training
    # A child looks like its parent until it has become the program that it was made for.
    return {pid: told for pid, told in found.items() if parents[pid] not in found}


def parent_of(pid: int) -> int:
    """The process that made another one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill_process(run_id: str, index: str) -> bool:
    """Kill the first process of a pod by signal 9; False when there is none yet."""
    victims = [pid for pid, told in processes().items() if told == (run_id, index)]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    return bool(victims)


class Audit:
    """Looks all the time, in a thread, at who works on each run.

    Args:
        cluster: The namespace; this machine is its only node.

    Attributes:
        most: The most pods 0 of a run that were seen to work at one time, in the cluster or on the node.
        jobs: Every job that a run ever had.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.most: Counter[str] = Counter()
        self.jobs: dict[str, set[str]] = defaultdict(set)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Audit":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def left(self, run_id: str) -> list[str]:
        """What of a run has not ended: jobs, pods, and processes of the node."""
        of = f"run_id={run_id}"
        jobs = [job for job in self.cluster.list("Job", of, "batch/v1") if not may_have_ended(job)]
        pods = [pod for pod in self.cluster.list("Pod", of) if pod["status"].get("phase") in ("Pending", "Running")]
        left = [f"process {pid}" for pid, (run, _) in processes().items() if run == run_id]
        return left + [f"{each.get('kind', 'object')} {each['metadata']['name']}" for each in jobs + pods]

    def _run(self) -> None:
        while not self._over.wait(_EVERY_S):
            self.most |= Counter(run for run, index in processes().values() if index == "0")
            try:
                jobs, pods = self.cluster.jobs(), self.cluster.pods()
            except ApiError:
                continue  # it is away: that is what is tested
            for job in jobs:
                self.jobs[job["metadata"]["labels"]["run_id"]].add(job["metadata"]["uid"])
            self.most |= Counter(
                pod["metadata"]["labels"]["run_id"]
                for pod in pods
                if pod["status"].get("phase") == "Running"
                and not pod["metadata"].get("deletionTimestamp")
                and pod["metadata"]["labels"][INDEX] == "0"
            )
