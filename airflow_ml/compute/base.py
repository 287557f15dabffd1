"""The port behind which stages run, and the one decision that follows every look at a job.

`follow` is pure: the loop below and a trigger differ only in how they wait, so they cannot disagree about what an ended
job means.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

from airflow_ml.lifecycle.errors import AirflowMLError, JobFailed
from airflow_ml.lifecycle.requests import JobRequest, JobResult
from airflow_ml.spec import AnyCompute
from airflow_ml.spec.base import Frozen

TIMEOUT_S = 86_400.0
"""How long a remote job may run whose task says nothing of it."""
_SHORTEST_S = 0.05
_LONGEST_S = 0.5


class RemoteJob(Frozen):
    """A job of a cluster, as its submitter knows it.

    Attributes:
        namespace: It lies in.
        name: The same for every try of a task.
        uid: Of this job, and of no other that has ever had its name.
        owner: Who waits for it, in the words of its annotation.
        kind: Of its object.
    """

    namespace: str
    name: str
    uid: str
    owner: str
    kind: str = "Job"


class Handle(Frozen):
    """A submitted job, in plain values: a trigger on another machine can go on with it.

    Attributes:
        kind: Of the compute that knows it.
        id: Unique to one submission; names the request's folder.
        folder: Folder of ``request.json`` and ``response.json``.
        pid: Process of a local job, for people.
        job: Job of a cluster.
    """

    kind: str
    id: str
    folder: str
    pid: int | None = None
    job: RemoteJob | None = None


class Phase(StrEnum):
    """How far a job is."""

    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class JobState:
    """What a look at a job found.

    Attributes:
        phase: How far it is.
        exit_code: Of an ended process; negative for a signal; None where there is none to know.
        response: What the job wrote, for an ended one: its result, its error, or None for neither.
        detail: What the compute knows about the end (evicted, out of memory, host lost).
        remedy: What it knows to do about it.
    """

    phase: Phase
    exit_code: int | None = None
    response: JobResult | AirflowMLError | None = None
    detail: str = ""
    remedy: str = ""


class Compute(Protocol):
    """Runs a request somewhere.

    Attributes:
        outlives_task: Whether a job goes on when the task that submitted it ends. Only such a job can be waited for
            in a trigger; any other is waited for in the worker.
        trigger: Class path of the trigger that waits for a job. It takes the handle, the declaration, a deadline and
            the ids of the connections whose passwords the job has. None where no job outlives its task.
    """

    outlives_task: ClassVar[bool]
    trigger: ClassVar[str | None]

    @property
    def spec(self) -> AnyCompute:
        """The declaration."""

    def submit(self, request: JobRequest, secrets: Mapping[str, str], timeout_s: float | None = None) -> Handle:
        """Start a job, or go on with the one that an earlier try of the same task has started.

        Args:
            request: What to do; it is written where the job finds it.
            secrets: Environment variables of the job; never written into the base.
            timeout_s: Seconds that the job may run, for a compute whose jobs outlive their task.
        """

    def poll(self, handle: Handle) -> JobState:
        """Look at a job; returns at once."""

    def logs(self, handle: Handle) -> list[str]:
        """Lines that were logged since the last call."""

    def pause(self, handle: Handle, seconds: float) -> None:
        """Wait, or return early because there is something to see."""

    def cancel(self, handle: Handle, wait: bool = True) -> None:
        """End a job and everything that it started.

        Args:
            handle: The job; one that has ended already is left alone.
            wait: False only asks, for a caller in a signal handler.
        """


@dataclass(frozen=True)
class Next:
    """What follows a look at a job. At most one of the fields is set; none of them means: look again.

    Attributes:
        result: The job is done.
        error: It failed.
    """

    result: JobResult | None = None
    error: AirflowMLError | None = None


def follow(state: JobState) -> Next:
    """Decide what follows.

    A job that wrote its result and was killed right after is done: the result is written last. One that ended well and
    wrote nothing has failed.

    Args:
        state: What was found.
    """
    if state.phase is Phase.RUNNING:
        return Next()
    if isinstance(state.response, JobResult):
        return Next(result=state.response)
    if state.response is not None:
        return Next(error=state.response)
    remedy = state.remedy or "see the log above; a retry starts from the last committed state"
    return Next(error=JobFailed(_ending(state), remedy=remedy))


def _ending(state: JobState) -> str:
    if state.exit_code is None:
        what = "the job failed" if state.detail else "the job is gone"
    elif state.exit_code < 0 or state.exit_code > 128:
        number = -state.exit_code if state.exit_code < 0 else state.exit_code - 128
        hint = " (killed: out of memory?)" if number == 9 else ""
        what = f"the job was ended by signal {number}{hint}"
    else:
        what = f"the job ended with exit code {state.exit_code}"
    return f"{what} and wrote no result" + (f": {state.detail}" if state.detail else "")


def wait(compute: Compute, handle: Handle, tell: Callable[[str], None]) -> JobResult:
    """Wait for a job in this process, telling its log lines as they come. However this ends, the job has ended.

    Args:
        compute: Where it runs.
        handle: The job.
        tell: Called with each log line.

    Raises:
        AirflowMLError: What the job said, or that it ended without saying anything.
    """
    delay = _SHORTEST_S
    try:
        while True:
            state = compute.poll(handle)
            for line in compute.logs(handle):
                tell(line)
            following = follow(state)
            if following.result is not None:
                return following.result
            if following.error is not None:
                raise following.error
            compute.pause(handle, delay)
            delay = min(delay * 1.5, _LONGEST_S)
    finally:
        # A timeout or an interrupt is raised anywhere in the loop; nothing may be left behind it.
        compute.cancel(handle)
