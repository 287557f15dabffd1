"""The objects of jobs in one namespace: found, created, changed and deleted as they were seen."""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from airflow_ml.compute.kubernetes.api import METADATA, Api, ApiError, path_of
from airflow_ml.compute.kubernetes.facts import EVENTS
from airflow_ml.compute.kubernetes.names import JOB, MANAGED, PART_OF, REQUEST, WORKERS, Engine, engine_of_kind
from airflow_ml.compute.kubernetes.queues import GROUP_PATH, JOB_UID, queue_of, version_of
from airflow_ml.lifecycle.errors import ClusterError

Object = dict[str, Any]

POLL_S = 1.0
_GONE_S = 90.0
"""How long the pods of a job that was ended may take; the kubelet gives each of them its grace."""


class Objects:
    """What lies in a namespace.

    Args:
        api: The API server.
        namespace: Of everything.
    """

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._kueue = ""

    def job(self, engine: Engine, name: str, uid: str | None = None) -> Object | None:
        """A job; None when it is not there, or another one has its name."""
        try:
            job: Object = self._api.call("GET", path_of(engine.version, engine.kind, self._namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return job if uid is None or job["metadata"]["uid"] == uid else None

    def workers(self, job: Object) -> Object | None:
        """The Job of those that train, where the job is only that of their coordinator."""
        name = annotation(job, WORKERS)
        found = self.job(JOB, name) if name is not None else None
        return found if found is not None and owns(job, found) else None

    def pods(self, job: Object) -> list[Object]:
        """Pods of a job, and of its workers."""
        query = {"labelSelector": f"{PART_OF}={job['metadata']['name']}"}
        found: list[Object] = self._api.call("GET", path_of("v1", "Pod", self._namespace), query)["items"] or []
        # Of this job, and not of one that had its name before.
        return [pod for pod in found if annotation(pod, REQUEST) == annotation(job, REQUEST)]

    def workload(self, job: Object) -> Object | None:
        """What Kueue says of a job, or of its workers; None when it says nothing, or not to us."""
        if queue_of(job) is None:
            return None
        query = {"labelSelector": f"{JOB_UID}={job['metadata']['uid']}"}
        try:
            self._kueue = self._kueue or version_of(self._api.call("GET", GROUP_PATH))
            found = self._api.call("GET", path_of(self._kueue, "Workload", self._namespace), query)["items"]
        except ApiError as error:
            if error.status in (403, 404):
                return None
            raise
        return found[0] if found else None

    def submitted(self, engine: Engine) -> list[Object]:
        """Names and notes of all jobs of ours, without those that go with another one."""
        selector = ",".join(f"{name}={value}" for name, value in MANAGED.items())
        path = path_of(engine.version, engine.kind, self._namespace)
        items = self._api.call("GET", path, {"labelSelector": selector}, accept=METADATA)["items"] or ()
        return [item for item in items if not item["metadata"].get("ownerReferences")]

    def warnings(self) -> list[Object]:
        """Events of the namespace that may say why pods do not start; none where we may not see them."""
        with contextlib.suppress(ApiError):
            return list(self._api.call("GET", path_of("v1", "Event", self._namespace), EVENTS)["items"] or ())
        return []

    def log(self, pod: str, query: Mapping[str, Any]) -> str:
        """What a pod has said; nothing when it has not started, or its node is gone."""
        try:
            return str(self._api.call("GET", path_of("v1", "Pod", self._namespace, pod) + "/log", query))
        except ApiError as error:
            if error.status in (400, 404, 500):
                return ""
            raise

    def create(self, body: Object, query: Mapping[str, Any] | None = None) -> Object:
        """A new object."""
        path = path_of(body["apiVersion"], body["kind"], self._namespace)
        created: Object = self._api.call("POST", path, query, body)
        return created

    def change(self, job: Object, change: Object) -> None:
        """Merge a change into a job."""
        self._api.call("PATCH", _path(job), None, change)

    def delete(self, job: Object) -> bool:
        """End a job as it was seen; False when it has changed since."""
        metadata = job["metadata"]
        seen = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": seen}
        try:
            self._api.call("DELETE", _path(job), None, {**body, "propagationPolicy": "Foreground"})
        except ApiError as error:
            if error.status == 404:
                return True
            if error.status == 409:
                return False
            raise
        return True

    def wait_gone(self, job: Object) -> None:
        """Wait until a job and its pods are gone: a garbage collector that has just started takes the job first.

        Raises:
            ClusterError: They stay.
        """
        metadata = job["metadata"]
        deadline = time.monotonic() + _GONE_S
        engine = engine_of_kind(job["kind"])
        while self.job(engine, metadata["name"], metadata["uid"]) or self.workers(job) or self.pods(job):
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the job does not go away within {_GONE_S:.0f} s",
                    where=f"job {metadata['name']} in {self._namespace}",
                    remedy="is the node of its pods there? A retry waits again",
                )
            time.sleep(POLL_S / 4)


def annotation(item: Object, name: str) -> str | None:
    """What is noted of an object."""
    found: str | None = (item["metadata"].get("annotations") or {}).get(name)
    return found


def owns(job: Object, other: Object) -> bool:
    """Whether an object goes with a job."""
    uid = job["metadata"]["uid"]
    return any(owner["uid"] == uid for owner in other["metadata"].get("ownerReferences") or ())


def _path(job: Object) -> str:
    metadata = job["metadata"]
    return path_of(job["apiVersion"], job["kind"], metadata["namespace"], metadata["name"])
