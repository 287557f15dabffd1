"""`KubernetesPods`: a stage as a Job. It is submitted once, whoever dies meanwhile, and ended by whom it belongs to."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from airflow_ml.compute.base import TIMEOUT_S, Handle, JobState, Phase, RemoteJob
from airflow_ml.compute.exchange import read_response, renew, waited_for
from airflow_ml.compute.kubernetes.api import Api, ApiError
from airflow_ml.compute.kubernetes.facts import name_of
from airflow_ml.compute.kubernetes.manifests import manifests
from airflow_ml.compute.kubernetes.names import JOB, MPI_JOB, OWNER, REQUEST, engine_of_kind
from airflow_ml.compute.kubernetes.objects import POLL_S, Object, Objects, annotation
from airflow_ml.compute.kubernetes.observing import Observation, held, may_have_ended, observe, starting
from airflow_ml.compute.kubernetes.queues import require_queue
from airflow_ml.compute.kubernetes.rights import require_rights
from airflow_ml.compute.kubernetes.submitting import TRIES, Submission
from airflow_ml.compute.kubernetes.telling import LAST_LINES, Told, last_lines, others
from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.spec import KubernetesCompute

_EVENTS_S = 5.0


@dataclass
class Seen:
    """What was seen of a job so far, so that lines are told once."""

    observation: Observation = field(default_factory=lambda: Observation(JobState(Phase.RUNNING)))
    pods: list[Object] = field(default_factory=list)
    told: Told = field(default_factory=Told)
    away: bool = False
    lines: list[str] = field(default_factory=list)
    events: list[Object] = field(default_factory=list)
    asked: float = 0.0


class KubernetesPods:
    """Jobs of a cluster.

    Args:
        spec: What the platform says of the cluster.
        api: Its API server.
        clock: Seconds since the epoch.
    """

    outlives_task: ClassVar[bool] = True
    trigger: ClassVar[str | None] = "airflow_ml.triggers.job.JobTrigger"
    kind: ClassVar[str] = "kubernetes"

    def __init__(self, spec: KubernetesCompute, api: Api, clock: Callable[[], float] = time.time) -> None:
        self.spec = spec
        self.api = api
        self.objects = Objects(api, spec.namespace)
        self.clock = clock
        self._seen: dict[str, Seen] = {}

    # submit

    def submit(self, request: JobRequest, secrets: Mapping[str, str], timeout_s: float | None = None) -> Handle:
        """Submit a job, or adopt the one that an earlier try of this task has submitted.

        Raises:
            SpecError: The declaration, the rights or the namespace will not do; nothing was submitted.
            ClusterError: The API server is away, or refuses.
        """
        timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
        # Refused before anything is looked at: the declaration needs no cluster to be wrong.
        manifests(request, self.spec, "/", secrets, "", timeout_s)
        try:
            require_rights(self.api, self.spec)
            require_queue(self.api, self.spec)
            self.end_orphans()
            return Submission(request, self.spec, self.objects, self.clock, timeout_s).submit(secrets)
        except ApiError as error:
            raise _as_spec_error(error, self.spec) or error.told() from error

    # look

    def poll(self, handle: Handle) -> JobState:
        """Look at the job and its pods; an API server that is away is waited for."""
        seen = self._seen.setdefault(handle.id, Seen())
        renew(handle.folder)
        ref = _ref(handle)
        try:
            job = self.objects.job(engine_of_kind(ref.kind), ref.name, ref.uid)
            if job is not None and annotation(job, OWNER) != ref.owner:
                return JobState(Phase.ENDED, detail="another try of this task has taken it over", remedy="see that try")
            workers = self.objects.workers(job) if job is not None else None
            counted = workers or job
            # One more request, for as long as it waits.
            workload = self.objects.workload(counted) if counted is not None and held(counted) else None
            seen.pods = self.objects.pods(job) if job is not None else seen.pods
        except ApiError as error:
            if not error.waited_out:
                raise error.told() from error
            if not seen.away:
                seen.lines.append(f"WARNING the API server is away ({error.what}); the job is waited for")
            seen.away = True
            return JobState(Phase.RUNNING)
        if seen.away:
            seen.lines.append("INFO the API server is back")
            seen.away = False
        # After the look at the job: it answers before it ends.
        response = read_response(handle.folder)
        now, ran = self.clock(), seen.observation.ran
        if not starting(job, ran):
            seen.events = []
        elif now - seen.asked >= _EVENTS_S:
            seen.events, seen.asked = self.objects.warnings(), now
        limit_s = self.spec.start_timeout_s
        seen.observation = observe(job, seen.pods, response, now, limit_s, workers, ran, workload, seen.events)
        return seen.observation.state

    def logs(self, handle: Handle) -> list[str]:
        """New lines of pod 0, and what is new about any pod; of a job that failed, the last lines of the others."""
        seen = self._seen.setdefault(handle.id, Seen())
        lines, seen.lines = seen.lines, []
        lines += seen.told.news(seen.observation)
        with contextlib.suppress(ApiError):
            reading = seen.told.log_of(seen.pods)
            if reading is not None:
                lines += seen.told.new_lines(self.objects.log(*reading))
            if seen.observation.state.phase is Phase.ENDED and seen.observation.state.exit_code != 0:
                lines += self._last_lines(seen)
        return lines

    def _last_lines(self, seen: Seen) -> list[str]:
        found: list[str] = []
        for pod in others(seen.pods):
            found += last_lines(pod, self.objects.log(name_of(pod), LAST_LINES))
        seen.pods = []
        return found

    def pause(self, handle: Handle, seconds: float) -> None:
        """Wait."""
        time.sleep(max(seconds, POLL_S))

    # end

    def cancel(self, handle: Handle, wait: bool = True) -> None:
        """End the job with its pods, unless it has ended or belongs to somebody else by now."""
        ref = _ref(handle)
        try:
            for _ in range(TRIES):
                job = self.objects.job(engine_of_kind(ref.kind), ref.name, ref.uid)
                if job is None or may_have_ended(job) or annotation(job, OWNER) != ref.owner:
                    return
                if self.objects.delete(job):
                    if wait:
                        self.objects.wait_gone(job)
                    return
        except ApiError as error:
            raise error.told("end it by hand: kubectl delete job " + ref.name) from error

    def end_orphans(self) -> list[str]:
        """End the jobs that nobody has waited for, in twice the time of their lease; returns their names.

        A job with pods ends itself: this is for those that have not started, and for pods that hang.
        """
        ended: list[str] = []
        # Stages other than a training are Jobs on a cluster of MPIJobs, too.
        engines = [JOB, MPI_JOB] if self.spec.engine == "mpijob" else [JOB]
        for engine, item in [(each, item) for each in engines for item in self.objects.submitted(each)]:
            metadata = item["metadata"]
            folder = annotation(item, REQUEST) or ""
            # Its status may change while we look; whoever takes it meanwhile renews the lease.
            while self._orphaned(folder):
                job = self.objects.job(engine, metadata["name"], metadata["uid"])
                if job is None or may_have_ended(job):
                    break
                if self.objects.delete(job):
                    ended.append(str(metadata["name"]))
                    break
        return ended

    def _orphaned(self, folder: str) -> bool:
        last = waited_for(folder)
        return last is not None and self.clock() - last >= 2 * self.spec.lease_s


def _ref(handle: Handle) -> RemoteJob:
    if handle.job is None:
        raise AirflowMLError("the handle names no job of a cluster", where=handle.id)
    return handle.job


def _as_spec_error(error: ApiError, spec: KubernetesCompute) -> SpecError | None:
    """What the API server refuses for the declaration's sake."""
    where = f"namespace {spec.namespace} of connection {spec.conn_id}"
    if error.status == 404 and "namespaces" in error.what:
        return SpecError("the namespace does not exist", where=where, remedy="create it, or correct `namespace`")
    if error.status in (400, 422):
        return SpecError(
            f"the API server refuses the pods: {error.what}", where=where, remedy="correct the pod template"
        )
    return None
