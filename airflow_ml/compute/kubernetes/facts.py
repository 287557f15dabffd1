"""What a pod says: whether it runs, which of the job's pods it is, and what a person should know of it. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_ml.compute.kubernetes.names import INDEX, MPI_INDEX, ROLE, WORKER
from airflow_ml.compute.kubernetes.templates import BASE
from airflow_ml.lifecycle.protocol import KILLED, LEFT

Object = Mapping[str, Any]

_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
REMEDIES = {
    **dict.fromkeys(_PULL, "correct the image's name, or give the pods a pull secret in the template"),
    "CreateContainerConfigError": "correct the pod template; with runAsNonRoot the image needs a user that is not root",
    "CreateContainerError": "correct the pod template, or the image",
    "RunContainerError": "correct `python` of the compute, or the image",
    "StartError": "correct `python` of the compute, or the image: the program is not there",
    "ContainerCannotRun": "correct `python` of the compute, or the image: the program is not there",
    "Unschedulable": "wait for room, ask for less in the template, or correct its node selector and tolerations",
    "FailedCreate": "ask for less, or correct the template: quota, service account, priority class of the namespace",
    **dict.fromkeys(("FailedMount", "FailedAttachVolume"), "correct the volumes of the pod template"),
    "OOMKilled": "raise the memory limit in the template, use more workers, or a shorter window",
    "Evicted": "raise the requests in the template to what the pods use",
    "DeadlineExceeded": "raise the task's execution_timeout",
}

_LAST_LINES = 3
_OOM = "the container needed more than its memory limit"


@dataclass(frozen=True)
class Fact:
    """Something about a pod that a person should know.

    Attributes:
        pod: Its name.
        reason: One word, as Kubernetes says it.
        message: A sentence, as Kubernetes says it.
        final: Whether the pod has ended with it.
        kind: Of the object, where it is no pod.
    """

    pod: str
    reason: str
    message: str
    final: bool = False
    kind: str = "pod"

    @property
    def remedy(self) -> str:
        """What the reader can do."""
        return REMEDIES.get(self.reason, "")

    def __str__(self) -> str:
        return f"{self.kind} {self.pod}: {self.reason}" + (f": {self.message}" if self.message else "")


def started(pod: Object) -> bool:
    """Whether the worker's container runs, or has."""
    state = _base_state(pod)
    return "running" in state or "terminated" in state


def ended_at(pod: Object) -> str | None:
    """When the worker's container ended, as Kubernetes writes it; None for one that has not."""
    found = _base_state(pod).get("terminated", {}).get("finishedAt")
    return None if found is None else str(found)


def facts_of(pod: Object) -> Iterable[Fact]:
    """What is wrong with a pod; nothing, as a rule."""
    name, status = name_of(pod), pod.get("status", {})
    if status.get("reason") == "Evicted":
        yield Fact(name, "Evicted", str(status.get("message", "")).strip(), final=True)
        return
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield Fact(name, str(condition.get("reason", "Unschedulable")), str(condition.get("message", "")).strip())
        elif condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            yield Fact(name, str(condition.get("reason", "Disrupted")), str(condition.get("message", "")), final=True)
    yield from _beside_base(pod)
    if ((_base(pod).get("lastState") or {}).get("terminated") or {}).get("reason") == "OOMKilled":
        # Its container was started anew in its place, as those of an MPIJob are.
        yield Fact(name, "OOMKilled", _OOM, final=True)
    state = _base_state(pod)
    waiting = state.get("waiting", {})
    if waiting.get("reason") in REMEDIES:
        yield Fact(name, waiting["reason"], str(waiting.get("message", "")).strip())
    ended = state.get("terminated", {})
    code = ended.get("exitCode", 0)
    # Asked to go: with its job, or by whoever says so in a condition.
    if code in (0, LEFT):
        return
    fact = _ended(name, ended)
    yield (
        Fact(name, "Killed", f"exit code {code}", final=True) if code == KILLED and fact.reason != "OOMKilled" else fact
    )


EVENTS: Mapping[str, str] = {"fieldSelector": "type=Warning"}
"""Query for the events of a namespace that may say why pods do not start."""

_TOLD = ("FailedCreate", "FailedMount", "FailedAttachVolume")
"""Reasons of events that no pod's status has."""


def facts_of_events(events: Iterable[Object], of: Iterable[Object]) -> list[Fact]:
    """Why a job has no pods, or why they do not start.

    Args:
        events: Of the namespace.
        of: The jobs and pods that are looked at.
    """
    uids = {each["metadata"].get("uid") for each in of}
    found = [
        Fact(
            pod=str(event["involvedObject"]["name"]),
            reason=event["reason"],
            # A pod that could not be made has another name each time.
            message=re.sub(r'pods "[^"]*"', "pods", str(event.get("message", "")).strip()),
            kind=str(event["involvedObject"]["kind"]).lower(),
        )
        for event in events
        if event.get("reason") in _TOLD and event["involvedObject"].get("uid") in uids
    ]
    return list(dict.fromkeys(found))


def _beside_base(pod: Object) -> Iterable[Fact]:
    """What is wrong with the containers that the user's template has brought along."""
    name, status = name_of(pod), pod.get("status", {})
    inits = status.get("initContainerStatuses") or ()
    for each in (*inits, *(status.get("containerStatuses") or ())):
        state = each.get("state") or {}
        waiting, ended = state.get("waiting", {}), state.get("terminated", {})
        if each["name"] == BASE:
            continue
        where = f"container {each['name']}: "
        if waiting.get("reason") in REMEDIES:
            yield Fact(name, waiting["reason"], where + str(waiting.get("message", "")).strip())
        elif each in inits and status.get("phase") == "Failed" and ended.get("exitCode", 0):
            # Nothing else has run: it is why the pod has failed.
            yield _ended(name, ended, where)


def _ended(pod: str, ended: Object, where: str = "") -> Fact:
    """How a container has ended, not well."""
    reason, message = str(ended.get("reason") or "Error"), str(ended.get("message", "")).strip()
    if reason == "OOMKilled":
        message = _OOM
    elif reason not in REMEDIES:
        last = " | ".join(message.splitlines()[-_LAST_LINES:])
        message = f"exit code {ended.get('exitCode', 0)}" + (f", last lines: {last}" if last else "")
    return Fact(pod, reason, where + message, final=True)


def index_of(pod: Object) -> int:
    """Which of the job's pods; 0 is the one that runs the request."""
    labels = pod["metadata"].get("labels") or {}
    number = int(labels.get(MPI_INDEX) or labels.get(INDEX) or 0)
    # Those that train count from 0, too, where another one coordinates.
    return number + 1 if labels.get(ROLE) == WORKER else number


def name_of(pod: Object) -> str:
    """Its name."""
    return str(pod["metadata"]["name"])


def main_pod(pods: Sequence[Object]) -> Object | None:
    """The newest pod 0: the one whose log is the task's."""
    found = [pod for pod in pods if index_of(pod) == 0]
    return max(found, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)


def _base(pod: Object) -> Mapping[str, Any]:
    """Status of the worker's container; empty before there is one."""
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return next((status for status in statuses if status["name"] == BASE), {})


def _base_state(pod: Object) -> Mapping[str, Any]:
    """State of the worker's container."""
    return _base(pod).get("state") or {}
