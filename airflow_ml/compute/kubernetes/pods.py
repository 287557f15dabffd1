"""`KubernetesPods`: a stage as a Job. It is submitted once, whoever dies meanwhile, and ended by whom it belongs to.

A task has one name for its job in all of its tries, and names are unique: whoever comes second finds the first one's
job. It *adopts* a job that was submitted with the same request, and ends any other before it submits its own. Both are
compare-and-set on the job's owner and version, so that of two tries that overlap one wins, and the try that lost cannot
end what is no longer its own.
"""

import contextlib
import secrets as random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from airflow_ml.compute.base import TIMEOUT_S, Handle, JobState, Phase, RemoteJob
from airflow_ml.compute.exchange import read_response, remove_old, renew, waited_for, write_request
from airflow_ml.compute.kubernetes.api import METADATA, Api, ApiError, path_of
from airflow_ml.compute.kubernetes.manifests import Manifests, manifests
from airflow_ml.compute.kubernetes.names import (
    FINGERPRINT,
    JOB,
    MANAGED,
    MPI_JOB,
    OWNER,
    REQUEST,
    SUBMITTED,
    Engine,
    Names,
    engine_of,
    engine_of_kind,
    owner_of,
    request_fingerprint,
)
from airflow_ml.compute.kubernetes.observing import Observation, index_of, may_have_ended, name_of, observe, seconds_of
from airflow_ml.compute.kubernetes.rights import require_rights
from airflow_ml.compute.kubernetes.telling import LAST_LINES, Told
from airflow_ml.lifecycle.errors import AirflowMLError, ClusterError, SpecError
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.spec import KubernetesCompute

Object = dict[str, Any]

_POLL_S = 1.0
_GONE_S = 90.0
"""How long the pods of a job that was ended may take; the kubelet gives each of them its grace."""
_TRIES = 50


@dataclass
class Seen:
    """What was seen of a job so far, so that lines are told once."""

    observation: Observation = field(default_factory=lambda: Observation(JobState(Phase.RUNNING)))
    pods: list[Object] = field(default_factory=list)
    told: Told = field(default_factory=Told)
    away: bool = False
    lines: list[str] = field(default_factory=list)


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
            self.end_orphans()
            for _ in range(_TRIES):
                found = self._job(engine_of(request.stage, self.spec), Names.of(request).job)
                handle = (
                    self._create(request, secrets, timeout_s)
                    if found is None
                    else self._adopt_or_end(found, request, timeout_s)
                )
                if handle is not None:
                    renew(handle.folder)
                    return handle
        except ApiError as error:
            raise _as_spec_error(error, self.spec) or error.told() from error
        raise ClusterError(
            "another job of this task comes and goes",
            where=f"job {Names.of(request).job} in {self.spec.namespace}",
            remedy="see who else runs this task",
        )

    def _create(self, request: JobRequest, secrets: Mapping[str, str], timeout_s: float) -> Handle | None:
        """A new job; None when somebody else was first."""
        remove_old(request.platform.base, request.model.name)
        folder = write_request(request)
        objects = manifests(request, self.spec, str(folder), secrets, random.token_hex(32), timeout_s)
        for query in ({"dryRun": "All"}, None):
            try:
                job = self._post(objects.job, query)
            except ApiError as error:
                if error.reason == "AlreadyExists":
                    return None
                raise
        try:
            self._complete(job, objects)
        except ApiError as error:
            if error.status in (404, 409):
                # Another try took it meanwhile; what it makes of it is seen in the next round.
                return None
            raise
        return self._handle(job, str(folder), owner_of(request.coordinates))

    def _complete(self, job: Object, objects: Manifests) -> None:
        """Create what the job owns, and let it go."""
        metadata = job["metadata"]
        owner = {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        for each in objects.others:
            self._post({**each, "metadata": {**each["metadata"], "ownerReferences": [owner]}})
        labels = {"kueue.x-k8s.io/queue-name": self.spec.queue} if self.spec.queue else {}
        change: Object = {
            "metadata": {
                # Of this job, and of none that has taken its name since.
                "uid": metadata["uid"],
                "annotations": {SUBMITTED: f"{self.clock():.0f}"},
                "labels": labels,
            }
        }
        # A queue lets go of its jobs itself, when there is room for all pods.
        if not self.spec.queue:
            change["spec"] = {"suspend": False} if job["kind"] == JOB.kind else {"runPolicy": {"suspend": False}}
        self._patch(job, change)

    def _adopt_or_end(self, found: Object, request: JobRequest, timeout_s: float) -> Handle | None:
        """The job as ours; None when it was another one, which has been ended, or when somebody else was first."""
        metadata = found["metadata"]
        annotations = metadata.get("annotations") or {}
        if metadata.get("deletionTimestamp"):
            self._until_gone(found)
            return None
        owner = owner_of(request.coordinates)
        failed = any(
            condition["type"] in ("Failed", "FailureTarget") and condition["status"] == "True"
            for condition in found.get("status", {}).get("conditions") or ()
        )
        same = metadata["labels"].get(FINGERPRINT) == request_fingerprint(request, self.spec)[:32]
        # One that was never let go has a submitter that died on the way, or loses to us.
        if failed or not same or SUBMITTED not in annotations or not Path(annotations[REQUEST]).is_dir():
            if self._delete(found):
                self._until_gone(found)
            return None
        began = seconds_of(found.get("status", {}).get("startTime"))
        elapsed = 0.0 if began is None else max(0.0, self.clock() - began)
        change: Object = {"metadata": {"resourceVersion": metadata["resourceVersion"], "annotations": {OWNER: owner}}}
        if found["kind"] == JOB.kind:
            change["spec"] = {"activeDeadlineSeconds": int(elapsed + timeout_s)}
        if request.coordinates is not None:
            change["metadata"]["labels"] = {"try_number": str(request.coordinates.try_number)}
        try:
            self._patch(found, change)
        except ApiError as error:
            if error.status in (404, 409):
                return None
            raise
        return self._handle(found, annotations[REQUEST], owner)

    def _handle(self, job: Object, folder: str, owner: str) -> Handle:
        metadata = job["metadata"]
        ref = RemoteJob(
            namespace=self.spec.namespace, name=metadata["name"], uid=metadata["uid"], owner=owner, kind=job["kind"]
        )
        return Handle(kind=self.kind, id=Path(folder).name, folder=folder, job=ref)

    # look

    def poll(self, handle: Handle) -> JobState:
        """Look at the job and its pods; an API server that is away is waited for."""
        seen = self._seen.setdefault(handle.id, Seen())
        renew(handle.folder)
        ref = _ref(handle)
        try:
            engine = engine_of_kind(ref.kind)
            job = self._job(engine, ref.name, ref.uid)
            if job is not None and _owner(job) != ref.owner:
                return JobState(Phase.ENDED, detail="another try of this task has taken it over", remedy="see that try")
            seen.pods = self._pods(engine, ref.name, handle.folder) if job is not None else seen.pods
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
        seen.observation = observe(job, seen.pods, response, self.clock(), self.spec.start_timeout_s)
        return seen.observation.state

    def logs(self, handle: Handle) -> list[str]:
        """New lines of pod 0, and what is new about any pod; of a job that failed, the last lines of the others."""
        seen = self._seen.setdefault(handle.id, Seen())
        lines, seen.lines = seen.lines, []
        lines += seen.told.news(seen.observation.facts)
        with contextlib.suppress(ApiError):
            reading = seen.told.log_of(seen.pods)
            if reading is not None:
                lines += seen.told.new_lines(self._log(*reading))
            if seen.observation.state.phase is Phase.ENDED and seen.observation.state.exit_code != 0:
                lines += self._last_lines(seen)
        return lines

    def _last_lines(self, seen: Seen) -> list[str]:
        found: list[str] = []
        for pod in sorted(seen.pods, key=index_of):
            if index_of(pod) == 0:
                continue
            text = self._log(name_of(pod), {"container": "base", "tailLines": LAST_LINES})
            found += [f"INFO pod {name_of(pod)}: {line}" for line in text.splitlines()]
        seen.pods = []
        return found

    def _log(self, pod: str, query: Mapping[str, Any]) -> str:
        try:
            return str(self.api.call("GET", path_of("v1", "Pod", self.spec.namespace, pod) + "/log", query))
        except ApiError as error:
            if error.status in (400, 404, 500):
                # It has not started, or its node is gone.
                return ""
            raise

    def pause(self, handle: Handle, seconds: float) -> None:
        """Wait."""
        time.sleep(max(seconds, _POLL_S))

    # end

    def cancel(self, handle: Handle, wait: bool = True) -> None:
        """End the job with its pods, unless it has ended or belongs to somebody else by now."""
        ref = _ref(handle)
        try:
            for _ in range(_TRIES):
                job = self._job(engine_of_kind(ref.kind), ref.name, ref.uid)
                if job is None or may_have_ended(job) or _owner(job) != ref.owner:
                    return
                if self._delete(job):
                    if wait:
                        self._until_gone(job)
                    return
        except ApiError as error:
            raise error.told("end it by hand: kubectl delete job " + ref.name) from error

    def end_orphans(self) -> list[str]:
        """End the jobs that nobody has waited for, in twice the time of their lease; returns their names.

        A job with pods ends itself: this is for those that have not started, and for pods that hang.
        """
        ended: list[str] = []
        selector = ",".join(f"{name}={value}" for name, value in MANAGED.items())
        engine = MPI_JOB if self.spec.engine == "mpijob" else JOB
        path = path_of(engine.version, engine.kind, self.spec.namespace)
        for item in self.api.call("GET", path, {"labelSelector": selector}, accept=METADATA)["items"] or ():
            metadata = item["metadata"]
            folder = (metadata.get("annotations") or {}).get(REQUEST, "")
            # Its status may change while we look; whoever takes it meanwhile renews the lease.
            while self._orphaned(folder):
                job = self._job(engine, metadata["name"], metadata["uid"])
                if job is None or may_have_ended(job):
                    break
                if self._delete(job):
                    ended.append(str(metadata["name"]))
                    break
        return ended

    def _orphaned(self, folder: str) -> bool:
        last = waited_for(folder)
        return last is not None and self.clock() - last >= 2 * self.spec.lease_s

    # the API server

    def _job(self, engine: Engine, name: str, uid: str | None = None) -> Object | None:
        try:
            job: Object = self.api.call("GET", path_of(engine.version, engine.kind, self.spec.namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return job if uid is None or job["metadata"]["uid"] == uid else None

    def _pods(self, engine: Engine, name: str, folder: str) -> list[Object]:
        path = path_of("v1", "Pod", self.spec.namespace)
        query = {"labelSelector": f"{engine.pod_label}={name}"}
        found: list[Object] = self.api.call("GET", path, query)["items"] or []
        # Of this job, and not of one that had its name before.
        return [pod for pod in found if (pod["metadata"].get("annotations") or {}).get(REQUEST) == folder]

    def _post(self, body: Object, query: Mapping[str, Any] | None = None) -> Object:
        path = path_of(body["apiVersion"], body["kind"], self.spec.namespace)
        created: Object = self.api.call("POST", path, query, body)
        return created

    def _patch(self, job: Object, change: Object) -> None:
        self.api.call("PATCH", _path(job), None, change)

    def _delete(self, job: Object) -> bool:
        """End a job as it was seen; False when it has changed since."""
        metadata = job["metadata"]
        seen = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": seen}
        try:
            self.api.call("DELETE", _path(job), None, {**body, "propagationPolicy": "Foreground"})
        except ApiError as error:
            if error.status == 404:
                return True
            if error.status == 409:
                return False
            raise
        return True

    def _until_gone(self, job: Object) -> None:
        """Wait until a job and its pods are gone: a garbage collector that has just started takes the job first."""
        metadata = job["metadata"]
        deadline = time.monotonic() + _GONE_S
        engine = engine_of_kind(job["kind"])
        folder = (metadata.get("annotations") or {}).get(REQUEST, "")
        while self._job(engine, metadata["name"], metadata["uid"]) or self._pods(engine, metadata["name"], folder):
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the job does not go away within {_GONE_S:.0f} s",
                    where=f"job {metadata['name']} in {self.spec.namespace}",
                    remedy="is the node of its pods there? A retry waits again",
                )
            time.sleep(_POLL_S / 4)


def _ref(handle: Handle) -> RemoteJob:
    if handle.job is None:
        raise AirflowMLError("the handle names no job of a cluster", where=handle.id)
    return handle.job


def _owner(job: Object) -> str | None:
    found: str | None = (job["metadata"].get("annotations") or {}).get(OWNER)
    return found


def _path(job: Object) -> str:
    metadata = job["metadata"]
    return path_of(job["apiVersion"], job["kind"], metadata["namespace"], metadata["name"])


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
