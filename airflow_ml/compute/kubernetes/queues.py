"""Kueue, where a job waits until there is room for all of its pods: whether it is there, and what it says of a job.

It notes on an object of its own, the Workload, what the job waits for, and why it has suspended one that ran.

Source: https://kueue.sigs.k8s.io/docs/concepts/workload/
"""

from collections.abc import Mapping
from typing import Any

from airflow_ml.compute.kubernetes.api import Api, ApiError, path_of
from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.spec import KubernetesCompute

Object = Mapping[str, Any]

GROUP = "kueue.x-k8s.io"
QUEUE = f"{GROUP}/queue-name"
NO_QUEUE = "airflow-ml-incomplete"
"""Queue of jobs that are only being made: there is none of that name."""
JOB_UID = f"{GROUP}/job-uid"
"""Label of a Workload: the job that it is of."""
GROUP_PATH = f"/apis/{GROUP}"


def version_of(group: Mapping[str, Any]) -> str:
    """The API version that the server prefers, of what `GROUP_PATH` answers: Kueue's are replaced from time to time."""
    return str(group["preferredVersion"]["groupVersion"])


def require_queue(api: Api, spec: KubernetesCompute) -> None:
    """Make sure that the queue is there: nobody would ever let go of the job otherwise.

    Raises:
        SpecError: There is no such queue, or no Kueue.
    """
    if spec.queue is None:
        return
    where = f"namespace {spec.namespace} of connection {spec.conn_id}"
    try:
        version = version_of(api.call("GET", GROUP_PATH))
    except ApiError as error:
        if error.status != 404:
            raise
        raise SpecError(
            f"the compute names the queue {spec.queue}, and the cluster has no Kueue",
            where=where,
            remedy="install it, or take `queue` out of the compute",
        ) from error
    try:
        api.call("GET", path_of(version, "LocalQueue", spec.namespace, spec.queue))
    except ApiError as error:
        if error.status != 404:
            raise
        raise SpecError(
            f"there is no local queue {spec.queue}", where=where, remedy="create it, or correct `queue` of the compute"
        ) from error


def queue_of(job: Object) -> str | None:
    """Queue that decides when a job runs."""
    found: str | None = (job["metadata"].get("labels") or {}).get(QUEUE)
    return found


def waits(job: Object, workload: Object | None) -> str | None:
    """What a job that is suspended waits for, in Kueue's words; None for one that is in no queue.

    Args:
        job: The Job, or that of the workers.
        workload: Its own, where Kueue has made one.
    """
    queue = queue_of(job)
    if queue is None:
        return None
    conditions = {each["type"]: each for each in (workload or {}).get("status", {}).get("conditions") or ()}
    # What an eviction says is repeated in the other until Kueue has looked for room again.
    wanted = (("Evicted", "True"), ("QuotaReserved", "False"))
    found = (conditions[kind] for kind, status in wanted if conditions.get(kind, {}).get("status") == status)
    words = dict.fromkeys(str(each.get("message", "")).strip() for each in found)
    why = "; ".join(text for text in words if text and NO_QUEUE not in text)
    return f"waits in the queue {queue}" + (f": {why}" if why else "")
