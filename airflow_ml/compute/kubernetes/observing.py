"""What a job and its pods say: how far it is, what a person should know now, and why it failed. Pure.

The worker's loop and the trigger look through different clients and hand the same plain values to `observe`, so they
cannot disagree.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_ml.compute.base import JobState, Phase
from airflow_ml.compute.kubernetes.names import FEWEST, INDEX, MPI_INDEX
from airflow_ml.compute.kubernetes.templates import BASE
from airflow_ml.lifecycle.errors import AirflowMLError
from airflow_ml.lifecycle.protocol import KILLED, LEFT
from airflow_ml.lifecycle.requests import JobResult

Object = Mapping[str, Any]

_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_REMEDIES = {
    **dict.fromkeys(_PULL, "correct the image's name, or give the pods a pull secret in the template"),
    "CreateContainerConfigError": "correct the pod template; with runAsNonRoot the image needs a user that is not root",
    "CreateContainerError": "correct the pod template, or the image",
    "RunContainerError": "correct `python` of the compute, or the image",
    "StartError": "correct `python` of the compute, or the image: the program is not there",
    "ContainerCannotRun": "correct `python` of the compute, or the image: the program is not there",
    "Unschedulable": "wait for room, ask for less in the template, or correct its node selector and tolerations",
    "OOMKilled": "raise the memory limit in the template, use more workers, or a shorter window",
    "Evicted": "raise the requests in the template to what the pods use",
    "DeadlineExceeded": "raise the task's execution_timeout",
}

# What comes first says it; what follows is only that the other pods end. The last of each is that of an MPIJob.
_FAILED = ("FailureTarget", "Failed")
_SUCCEEDED = ("SuccessCriteriaMet", "Complete", "Succeeded")

_LAST_LINES = 3
_ANSWER_S = 60.0


@dataclass(frozen=True)
class Fact:
    """Something about a pod that a person should know.

    Attributes:
        pod: Its name.
        reason: One word, as Kubernetes says it.
        message: A sentence, as Kubernetes says it.
        final: Whether the pod has ended with it.
    """

    pod: str
    reason: str
    message: str
    final: bool = False

    @property
    def remedy(self) -> str:
        """What the reader can do."""
        return _REMEDIES.get(self.reason, "")

    def __str__(self) -> str:
        return f"pod {self.pod}: {self.reason}" + (f": {self.message}" if self.message else "")


@dataclass(frozen=True)
class Observation:
    """What a look found.

    Attributes:
        state: How far the job is.
        facts: Of its pods.
        to_end: Whether it still runs and is to be ended: it has not started in time, or its memory is too small.
    """

    state: JobState
    facts: tuple[Fact, ...] = ()
    to_end: bool = False


def observe(
    job: Object | None,
    pods: Sequence[Object],
    response: JobResult | AirflowMLError | None,
    now: float,
    start_timeout_s: float,
) -> Observation:
    """How far a job is.

    Args:
        job: The Job; None when it is gone.
        pods: Of the job.
        response: What it has answered.
        now: Seconds since the epoch.
        start_timeout_s: A job whose pods do not all run by then is late.
    """
    facts = tuple(fact for pod in sorted(pods, key=name_of) for fact in facts_of(pod))
    if job is None:
        return Observation(JobState(Phase.ENDED, None, response), facts)
    conditions = _conditions(job)
    ended = next((conditions[name] for name in _FAILED if name in conditions), None)
    succeeded = next((conditions[name] for name in _SUCCEEDED if name in conditions), None)
    if ended is None and succeeded is not None and response is None:
        # It has answered before it ended; a network file system may show that later.
        at = seconds_of(job.get("status", {}).get("completionTime")) or now
        if now - at < _ANSWER_S:
            return Observation(JobState(Phase.RUNNING), facts)
    if ended is not None or succeeded is not None:
        return Observation(_ended(ended, facts, response), facts)
    if any(fact.reason == "OOMKilled" for fact in facts):
        # The same again would end the same way.
        return Observation(_ended({}, facts, None), facts, to_end=True)
    late = _late(job, conditions, pods, now, start_timeout_s)
    if late:
        waiting = [fact for fact in facts if not fact.final]
        why = "; ".join(map(str, waiting)) or "Kubernetes does not say why"
        detail = f"not all of its pods ran within {start_timeout_s:.0f} s: {why}"
        remedy = next((fact.remedy for fact in waiting if fact.remedy), "look at the namespace's quota and queue")
        return Observation(JobState(Phase.ENDED, None, None, detail, remedy), facts, to_end=True)
    return Observation(JobState(Phase.RUNNING), facts)


def may_have_ended(job: Object | None) -> bool:
    """Whether the answer is worth reading: a job that runs or waits has none that counts."""
    return job is None or not _conditions(job).keys().isdisjoint((*_FAILED, *_SUCCEEDED))


def _conditions(job: Object) -> dict[str, Object]:
    """Conditions that are true."""
    found = job.get("status", {}).get("conditions") or ()
    return {condition["type"]: condition for condition in found if condition.get("status") == "True"}


def _ended(failed: Object | None, facts: Sequence[Fact], response: JobResult | AirflowMLError | None) -> JobState:
    if failed is None:
        return JobState(Phase.ENDED, 0, response)
    final = [fact for fact in facts if fact.final]
    # The pod that was killed for its memory explains the others, which lost their peer.
    worst = sorted(final, key=lambda fact: fact.reason not in ("OOMKilled", "Evicted"))
    detail = "; ".join(map(str, worst[:3])) or f"{failed.get('reason', '')}: {failed.get('message', '')}"
    remedy = next((fact.remedy for fact in worst if fact.remedy), _REMEDIES.get(str(failed.get("reason")), ""))
    if isinstance(response, AirflowMLError) and worst and worst[0].reason == "OOMKilled":
        # Pod 0 saw only that it lost a peer.
        response = None
    return JobState(Phase.ENDED, None, response, detail, remedy)


def _late(job: Object, conditions: Collection[str], pods: Sequence[Object], now: float, start_timeout_s: float) -> bool:
    status = job.get("status", {})
    since = seconds_of(status.get("startTime"))
    # A queue lets a job go when there is room: what it waits until then is no fault.
    if since is None or "Suspended" in conditions or now - since <= start_timeout_s:
        return False
    if status.get("succeeded") or status.get("failed"):
        # It has run; what waits now replaces a pod that was lost.
        return False
    return sum(1 for pod in pods if started(pod)) < _fewest(job)


def _fewest(job: Object) -> int:
    """Pods with which a job can work."""
    return int((job["metadata"].get("annotations") or {}).get(FEWEST, 1))


def seconds_of(time: str | None) -> float | None:
    """A time of Kubernetes as seconds since the epoch."""
    return None if time is None else datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()


def started(pod: Object) -> bool:
    """Whether the worker's container runs, or has."""
    status = _base_status(pod)
    return status is not None and ("running" in status or "terminated" in status)


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
    state = _base_status(pod) or {}
    waiting = state.get("waiting", {})
    if waiting.get("reason") in _REMEDIES:
        yield Fact(name, waiting["reason"], str(waiting.get("message", "")).strip())
    ended = state.get("terminated", {})
    code = ended.get("exitCode", 0)
    # Asked to go: with its job, or by whoever says so in a condition.
    if code in (0, LEFT):
        return
    reason, message = str(ended.get("reason") or "Error"), str(ended.get("message", "")).strip()
    if reason == "OOMKilled":
        message = "the container needed more than its memory limit"
    elif code == KILLED:
        reason, message = "Killed", f"exit code {code}"
    elif reason not in _REMEDIES:
        last = " | ".join(message.splitlines()[-_LAST_LINES:])
        message = f"exit code {code}" + (f", last lines: {last}" if last else "")
    yield Fact(name, reason, message, final=True)


def index_of(pod: Object) -> int:
    """Which of the job's pods; 0 is the one that runs the request."""
    labels = pod["metadata"].get("labels") or {}
    if MPI_INDEX in labels:
        return int(labels[MPI_INDEX]) + 1
    return int(labels.get(INDEX) or 0)


def name_of(pod: Object) -> str:
    """Its name."""
    return str(pod["metadata"]["name"])


def main_pod(pods: Sequence[Object]) -> Object | None:
    """The newest pod 0: the one whose log is the task's."""
    found = [pod for pod in pods if index_of(pod) == 0]
    return max(found, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)


def _base_status(pod: Object) -> Mapping[str, Any] | None:
    """State of the worker's container."""
    for status in pod.get("status", {}).get("containerStatuses") or ():
        if status["name"] == BASE:
            state: Mapping[str, Any] = status.get("state") or {}
            return state
    return None
