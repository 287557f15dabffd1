"""A request becomes a job once, however many ask for it.

A task has one name for its job in all of its tries, and names are unique: whoever comes second finds the first one's
job. It *adopts* a job that was submitted with the same request, and ends any other before it submits its own. Both are
compare-and-set on the job's owner and version, so that of two tries that overlap one wins, and the try that lost cannot
end what is no longer its own.
"""

import secrets as random
from collections.abc import Callable, Mapping
from pathlib import Path

from airflow_ml.compute.base import Handle, RemoteJob
from airflow_ml.compute.exchange import remove_old, renew, taken, write_request
from airflow_ml.compute.kubernetes.api import ApiError
from airflow_ml.compute.kubernetes.manifests import Manifests, manifests
from airflow_ml.compute.kubernetes.names import (
    FINGERPRINT,
    JOB,
    OWNER,
    REQUEST,
    SUBMITTED,
    WORKERS,
    Names,
    engine_of,
    owner_of,
    request_fingerprint,
)
from airflow_ml.compute.kubernetes.objects import Object, Objects
from airflow_ml.compute.kubernetes.observing import failed, seconds_of
from airflow_ml.compute.kubernetes.queues import QUEUE
from airflow_ml.lifecycle.errors import ClusterError
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.spec import KubernetesCompute

TRIES = 50


class Submission:
    """One request on its way into the cluster.

    Args:
        request: What is to be done.
        spec: What the platform says of the cluster.
        objects: Of its namespace.
        clock: Seconds since the epoch.
        timeout_s: Seconds that the job may run.
    """

    def __init__(
        self,
        request: JobRequest,
        spec: KubernetesCompute,
        objects: Objects,
        clock: Callable[[], float],
        timeout_s: float,
    ) -> None:
        self.request, self.spec, self.objects, self.clock, self.timeout_s = request, spec, objects, clock, timeout_s
        self.owner = owner_of(request.coordinates)

    def submit(self, secrets: Mapping[str, str]) -> Handle:
        """A job that is ours: a new one, or the one that an earlier try has submitted.

        Raises:
            ApiError: The API server is away, or refuses.
            ClusterError: Somebody else is always first.
        """
        name = Names.of(self.request).job
        for _ in range(TRIES):
            found = self.objects.job(engine_of(self.request.stage, self.spec), name)
            handle = self._create(secrets) if found is None else self._adopt_or_end(found)
            if handle is not None:
                renew(handle.folder)
                return handle
        raise ClusterError(
            "another job of this task comes and goes",
            where=f"job {name} in {self.spec.namespace}",
            remedy="see who else runs this task",
        )

    def _create(self, secrets: Mapping[str, str]) -> Handle | None:
        """A new job; None when somebody else was first."""
        remove_old(self.request.platform.base, self.request.model.name)
        folder = write_request(self.request)
        made = manifests(self.request, self.spec, str(folder), secrets, random.token_hex(32), self.timeout_s)
        for each in made.jobs:
            try:
                # Strict: a field that Kubernetes does not know would be left out without a word.
                self.objects.create(each, {"dryRun": "All", "fieldValidation": "Strict"})
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
        try:
            job = self.objects.create(made.job)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return None
            raise
        try:
            self._complete(job, made)
        except ApiError as error:
            if error.status in (404, 409):
                # Another try took it meanwhile; what it makes of it is seen in the next round.
                return None
            raise
        return self._handle(job, str(folder))

    def _complete(self, job: Object, made: Manifests) -> None:
        """Create what the job owns, and let it go."""
        metadata = job["metadata"]
        # Not its controller: a queue that counts what the workers ask for takes a controller's word for it.
        owner = {name: job[name] for name in ("apiVersion", "kind")} | {
            name: metadata[name] for name in ("name", "uid")
        }
        for each in made.others:
            owners = [{**owner, "blockOwnerDeletion": True}]
            self.objects.create({**each, "metadata": {**each["metadata"], "ownerReferences": owners}})
        # A queue lets go of its jobs itself, when there is room for all pods; those that it counts here may be others'.
        queued = self.spec.queue is not None and WORKERS not in metadata["annotations"]
        change: Object = {
            "metadata": {
                # Of this job, and of none that has taken its name since.
                "uid": metadata["uid"],
                "annotations": {SUBMITTED: f"{self.clock():.0f}"},
                "labels": {QUEUE: self.spec.queue} if queued else {},
            }
        }
        if not queued:
            change["spec"] = {"suspend": False} if job["kind"] == JOB.kind else {"runPolicy": {"suspend": False}}
        self.objects.change(job, change)

    def _adopt_or_end(self, found: Object) -> Handle | None:
        """The job as ours; None when it was another one, which has been ended, or when somebody else was first."""
        metadata = found["metadata"]
        annotations = metadata.get("annotations") or {}
        if metadata.get("deletionTimestamp"):
            self.objects.wait_gone(found)
            return None
        workers = self.objects.workers(found)
        complete = workers is not None or WORKERS not in annotations
        # One that was never let go has a submitter that died on the way, or loses to us.
        ours = (
            complete
            and SUBMITTED in annotations
            and Path(annotations[REQUEST]).is_dir()
            # What it answered is of then: a task that is cleared asks again, and the stage looks what is current.
            and not taken(annotations[REQUEST])
            and metadata["labels"].get(FINGERPRINT) == request_fingerprint(self.request, self.spec)[:32]
            and not any(failed(each) for each in (found, workers) if each is not None)
        )
        if not ours:
            if self.objects.delete(found):
                self.objects.wait_gone(found)
            return None
        change = self._new_deadline(found)
        change["metadata"] = {"resourceVersion": metadata["resourceVersion"], "annotations": {OWNER: self.owner}}
        if self.request.coordinates is not None:
            change["metadata"]["labels"] = {"try_number": str(self.request.coordinates.try_number)}
        try:
            self.objects.change(found, change)
            if workers is not None:
                self.objects.change(workers, self._new_deadline(workers))
        except ApiError as error:
            if error.status in (404, 409):
                return None
            raise
        return self._handle(found, annotations[REQUEST])

    def _new_deadline(self, job: Object) -> Object:
        """The change that gives a job as much time as a new one has."""
        if job["kind"] != JOB.kind:
            return {}
        began = seconds_of(job.get("status", {}).get("startTime"))
        elapsed = 0.0 if began is None else max(0.0, self.clock() - began)
        return {"spec": {"activeDeadlineSeconds": int(elapsed + self.timeout_s)}}

    def _handle(self, job: Object, folder: str) -> Handle:
        metadata = job["metadata"]
        ref = RemoteJob(
            namespace=self.spec.namespace,
            name=metadata["name"],
            uid=metadata["uid"],
            owner=self.owner,
            kind=job["kind"],
        )
        return Handle(kind=self.spec.kind, id=Path(folder).name, folder=folder, job=ref)
