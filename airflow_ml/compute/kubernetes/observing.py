"""What a job and its pods say: how far it is, what a person should know now, and why it failed. Pure.

The worker's loop and the trigger look through different clients and hand the same plain values to `observe`, so they
cannot disagree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_ml.compute.base import JobState, Phase
from airflow_ml.compute.kubernetes.facts import (
    REMEDIES,
    Fact,
    ended_at,
    facts_of,
    facts_of_events,
    main_pod,
    name_of,
    started,
)
from airflow_ml.compute.kubernetes.names import FEWEST
from airflow_ml.compute.kubernetes.queues import waits
from airflow_ml.lifecycle.errors import AirflowMLError
from airflow_ml.lifecycle.requests import JobResult

Object = Mapping[str, Any]

# What comes first says it; what follows is only that the other pods end. The last of each is that of an MPIJob.
_FAILED = ("FailureTarget", "Failed")
_SUCCEEDED = ("SuccessCriteriaMet", "Complete", "Succeeded")

_ANSWER_S = 60.0
"""How long what ended well may take to be seen: an answer after its job, a coordinator after its workers."""
_HELD_OPEN_S = 20.0
"""How long a pod may take to end when its work has: another container of the template may never end."""
_NO_ANSWER: Object = {
    "reason": "Ended",
    "message": "pod 0 gave no answer, and another container keeps it open",
}


@dataclass(frozen=True)
class Observation:
    """What a look found.

    Attributes:
        state: How far the job is.
        facts: Of its pods.
        to_end: Whether it still runs and is to be ended: it has not started in time, its memory is too small, or its
            work is done.
        ran: Whether as many of its pods as it needs have run: those that are missing now are replaced.
        queued: What it waits for in its queue; None when it does not.
    """

    state: JobState
    facts: tuple[Fact, ...] = ()
    to_end: bool = False
    ran: bool = False
    queued: str | None = None


def observe(
    job: Object | None,
    pods: Sequence[Object],
    response: JobResult | AirflowMLError | None,
    now: float,
    start_timeout_s: float,
    workers: Object | None = None,
    ran: bool = False,
    workload: Object | None = None,
    events: Sequence[Object] = (),
) -> Observation:
    """How far a job is.

    Args:
        job: The Job; None when it is gone.
        pods: Of the job, and of its workers.
        response: What it has answered.
        now: Seconds since the epoch.
        start_timeout_s: A job whose pods do not all run by then is late.
        workers: The Job of those that train, where they have one.
        ran: What the last look said of it: Kubernetes does not count the pods that were evicted.
        workload: What a queue says of the job, or of the workers.
        events: Of the namespace, while the job is `starting`.
    """
    facts = tuple(fact for pod in sorted(pods, key=name_of) for fact in facts_of(pod))
    facts += tuple(facts_of_events(events, [each for each in (job, workers, *pods) if each is not None]))
    if job is None:
        return Observation(JobState(Phase.ENDED, None, response), facts)
    conditions = _conditions(job)
    ended = failed(job)
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
    if _held_open(pods, now):
        done = isinstance(response, JobResult)
        return Observation(_ended(None if done else _NO_ANSWER, facts, response), facts, to_end=True)
    given_up = _given_up(workers, now)
    if given_up is not None:
        return Observation(_ended(given_up, facts, response), facts, to_end=True)
    counted = workers or job
    if held(counted):
        # By its queue, before it starts or for one that has precedence: it will have its time to start anew.
        return Observation(JobState(Phase.RUNNING), facts, queued=waits(counted, workload))
    ran = ran or _run(job, pods)
    if not ran and _late(job, counted, now, start_timeout_s):
        waiting = [fact for fact in facts if not fact.final]
        why = "; ".join(map(str, waiting)) or "Kubernetes does not say why"
        detail = f"not all of its pods ran within {start_timeout_s:.0f} s: {why}"
        remedy = next((fact.remedy for fact in waiting if fact.remedy), "look at the namespace's quota and queue")
        return Observation(JobState(Phase.ENDED, None, None, detail, remedy), facts, to_end=True)
    return Observation(JobState(Phase.RUNNING), facts, ran=ran)


def starting(job: Object | None, ran: bool) -> bool:
    """Whether pods of a job are on their way: why they do not come is worth asking for."""
    return job is not None and not ran and "startTime" in job.get("status", {}) and not may_have_ended(job)


def may_have_ended(job: Object | None) -> bool:
    """Whether a job is gone, or says that it has ended."""
    return job is None or not _conditions(job).keys().isdisjoint((*_FAILED, *_SUCCEEDED))


def may_have_answered(job: Object | None, pods: Sequence[Object], now: float) -> bool:
    """Whether the answer is worth reading: a job that runs or waits has none that counts."""
    return may_have_ended(job) or _held_open(pods, now)


def held(job: Object) -> bool:
    """Whether a job is suspended, so that it has no pods."""
    return "Suspended" in _conditions(job)


def failed(job: Object) -> Object | None:
    """The condition of a job that has failed."""
    conditions = _conditions(job)
    return next((conditions[name] for name in _FAILED if name in conditions), None)


def _conditions(job: Object) -> dict[str, Object]:
    """Conditions that are true."""
    found = job.get("status", {}).get("conditions") or ()
    return {condition["type"]: condition for condition in found if condition.get("status") == "True"}


def _ended(failure: Object | None, facts: Sequence[Fact], response: JobResult | AirflowMLError | None) -> JobState:
    if failure is None:
        return JobState(Phase.ENDED, 0, response)
    final = [fact for fact in facts if fact.final]
    # The pod that was killed for its memory explains the others, which lost their peer.
    worst = sorted(final, key=lambda fact: fact.reason not in ("OOMKilled", "Evicted"))
    detail = "; ".join(map(str, worst[:3])) or f"{failure.get('reason', '')}: {failure.get('message', '')}"
    remedy = next((fact.remedy for fact in worst if fact.remedy), REMEDIES.get(str(failure.get("reason")), ""))
    if isinstance(response, AirflowMLError) and worst and worst[0].reason == "OOMKilled":
        # Pod 0 saw only that it lost a peer.
        response = None
    return JobState(Phase.ENDED, None, response, detail, remedy)


def _held_open(pods: Sequence[Object], now: float) -> bool:
    """Whether the pod that answers has ended for itself, and another container keeps it."""
    first = main_pod(pods)
    if first is None or _leaves(first) or first.get("status", {}).get("phase") != "Running":
        return False
    at = seconds_of(ended_at(first))
    return at is not None and now - at > _HELD_OPEN_S


def _leaves(pod: Object) -> bool:
    """Whether a pod has been asked to go."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def _given_up(workers: Object | None, now: float) -> Object | None:
    """The condition of workers that have failed for themselves: their coordinator does not see what Kubernetes does."""
    condition = failed(workers) if workers is not None else None
    # Those whose coordinator has failed are told so: it ends, too, a moment later.
    since = seconds_of(condition.get("lastTransitionTime")) if condition is not None else None
    return condition if since is not None and now - since > _ANSWER_S else None


def _run(job: Object, pods: Sequence[Object]) -> bool:
    """Whether as many pods as are needed run; more workers than that make up for no coordinator."""
    # Not those that are on their way out: a job that its queue has let go again may have some of before.
    staying = [pod for pod in pods if not _leaves(pod)]
    first = main_pod(staying)
    needed = int((job["metadata"].get("annotations") or {}).get(FEWEST, 1))
    return first is not None and started(first) and sum(1 for pod in staying if started(pod)) >= needed


def _late(job: Object, training: Object, now: float, start_timeout_s: float) -> bool:
    """Whether the pods of the job that trains have had their time to run."""
    since = seconds_of(training.get("status", {}).get("startTime"))
    # A queue lets a job go when there is room: what it waits until then is no fault.
    if since is None or now - since <= start_timeout_s:
        return False
    # It has run, and what waits now replaces a pod that was lost.
    ended = (each.get("status", {}).get(name) for each in (job, training) for name in ("succeeded", "failed"))
    return not any(ended)


def seconds_of(time: str | None) -> float | None:
    """A time of Kubernetes as seconds since the epoch."""
    return None if time is None else datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()
