"""The objects of one job, as plain values: pure functions of the request and the platform.

The Job is created suspended and owns the others, so one delete removes all of them; it is let go when they are there.
In an elastic training no pod that trains is special: the Job is the coordinator's, and owns a second one, the workers'.

The pods know no credentials of the cluster. What they need to know of each other is in their environment; the key by
which they prove that they belong together is a file of a Secret.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from airflow_ml.compute.kubernetes.names import (
    COORDINATOR,
    FEWEST,
    FINGERPRINT,
    JOB,
    MANAGED,
    MODEL,
    MPI_JOB,
    OWNER,
    PART_OF,
    REQUEST,
    ROLE,
    STAGE,
    WORKERS,
    Names,
    engine_of,
    owner_of,
    request_fingerprint,
    task_annotations,
    task_labels,
)
from airflow_ml.compute.kubernetes.podspec import Role, Shape, pod, shape_of
from airflow_ml.compute.kubernetes.queues import NO_QUEUE, QUEUE
from airflow_ml.compute.kubernetes.templates import BASE, Object, check
from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.lifecycle.protocol import BROKEN, FAILED, GAVE_UP, NOT_STARTED
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.spec import KubernetesCompute

_BACKOFF_LIMIT = 6
_LARGEST_REQUEST = 1_000_000
"""Bytes; Kubernetes refuses a ConfigMap of more than a MiB."""


@dataclass(frozen=True)
class Manifests:
    """What is created for a job; the first one owns the others."""

    job: Object
    others: tuple[Object, ...] = field(default=())

    @property
    def jobs(self) -> tuple[Object, ...]:
        """Those that have a pod template, which the API server may refuse."""
        return (self.job, *(each for each in self.others if each["kind"] == JOB.kind))


def manifests(
    request: JobRequest,
    compute: KubernetesCompute,
    folder: str,
    secrets: Mapping[str, str],
    key: str,
    timeout_s: float,
) -> Manifests:
    """Everything that a request needs in the cluster.

    Args:
        request: What is to be done.
        compute: Where.
        folder: Of the request in the base: the pods answer there.
        secrets: Variables of the pods.
        key: By which the pods of this job know each other.
        timeout_s: Seconds that the job may run.

    Raises:
        SpecError: The declaration cannot become pods.
    """
    check(compute.template)
    shape = shape_of(request, compute)
    names = Names.of(request)
    labels = {
        **MANAGED,
        PART_OF: names.job,
        **task_labels(request.coordinates),
        MODEL: request.model.name,
        STAGE: request.stage,
        FINGERPRINT: request_fingerprint(request, compute)[:32],
    }
    annotations = {**task_annotations(request.coordinates), REQUEST: folder}
    engine = engine_of(request.stage, compute)
    apart = engine is MPI_JOB or shape.elastic
    # The coordinator, where it has a pod of its own, is one more.
    fewest = shape.fewest + apart
    metadata: Object = {
        "name": names.job,
        "namespace": compute.namespace,
        "labels": labels,
        "annotations": {**annotations, OWNER: owner_of(request.coordinates), FEWEST: str(fewest)},
    }
    about = {"labels": labels, "annotations": annotations}

    def template(role: Role) -> Object:
        return pod(engine, role, compute, shape, names, folder, about)

    if engine is MPI_JOB:
        job = _mpi_job(metadata, template("coordinator"), template("worker"), shape, compute, timeout_s)
    elif shape.elastic:
        metadata["annotations"][WORKERS] = names.workers
        job = _indexed_job(metadata, template("coordinator"), 1, compute, timeout_s)
    else:
        job = _indexed_job(metadata, template("peer"), shape.pods, compute, timeout_s)
    if compute.queue and WORKERS not in metadata["annotations"]:
        # One without a label would be taken by the namespace's default queue, where it has one, before it is complete.
        job = {**job, "metadata": {**metadata, "labels": {**labels, QUEUE: NO_QUEUE}}}
    others = [
        _request(request, names, metadata),
        _secret(names.key, {"key": key}, metadata),
        _secret(names.secrets, secrets, metadata),
    ]
    if shape.pods > 1 or engine is MPI_JOB:
        selector = {PART_OF: names.job}
        named = {**selector, ROLE: COORDINATOR} if engine is MPI_JOB else selector
        service = names.coordinator if engine is MPI_JOB else names.service
        others += [_service(service, named, metadata), _network_policy(selector, names, metadata)]
    if compute.pod_group:
        others.append(_pod_group(shape, compute, names, metadata))
    if shape.elastic and engine is JOB:
        # Last: it runs as soon as it is there.
        others.append(_workers(metadata, template("worker"), shape, names, compute, timeout_s))
    return Manifests(job, tuple(others))


def _indexed_job(metadata: Object, template: Object, pods: int, compute: KubernetesCompute, timeout_s: float) -> Object:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            # Let go when the objects that the pods need are there, by us or by the queue.
            "suspend": True,
            "completionMode": "Indexed",
            "completions": pods,
            "parallelism": pods,
            "backoffLimit": _BACKOFF_LIMIT,
            "activeDeadlineSeconds": max(1, int(timeout_s)),
            "ttlSecondsAfterFinished": compute.keep_s,
            # Pod 0 says what became of the whole; the others have nothing to add.
            "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
            "podReplacementPolicy": "Failed",
            # Not 137: a pod that somebody killed is replaced, and one that was killed for its memory, which ends the
            # same way, is known by its reason only. Whoever waits for the job ends it then.
            "podFailurePolicy": {"rules": [_DISRUPTED, _exits("FailJob", FAILED, BROKEN, NOT_STARTED)]},
            "template": template,
        },
    }


def _workers(
    metadata: Object, template: Object, shape: Shape, names: Names, compute: KubernetesCompute, timeout_s: float
) -> Object:
    """Those that train: each is replaced by itself, and none is needed as long as enough of them are left."""
    made = _beside(JOB.kind, JOB.version, names.workers, metadata)
    if compute.queue:
        # What they need is what the queue counts; the coordinator waits for them.
        made["metadata"]["labels"] = {**made["metadata"]["labels"], QUEUE: compute.queue}
    spec = {
        "suspend": compute.queue is not None,
        "completionMode": "Indexed",
        "completions": shape.pods,
        "parallelism": shape.pods,
        "backoffLimitPerIndex": _BACKOFF_LIMIT,
        "maxFailedIndexes": shape.pods - shape.fewest,
        "activeDeadlineSeconds": max(1, int(timeout_s)),
        # They are told the end: a pod that was only coming is no longer needed.
        "successPolicy": {"rules": [{"succeededCount": 1}]},
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [_DISRUPTED, _exits("FailJob", FAILED, NOT_STARTED), _exits("FailIndex", BROKEN, GAVE_UP)],
        },
        "template": template,
    }
    return {**made, "spec": spec}


_DISRUPTED: Object = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
"""Evicted, preempted, its node drained: that is no failure of the pod."""


def _exits(action: str, *codes: int) -> Object:
    values = sorted(codes)
    return {"action": action, "onExitCodes": {"containerName": BASE, "operator": "In", "values": values}}


def _mpi_job(
    metadata: Object, launcher: Object, worker: Object, shape: Shape, compute: KubernetesCompute, timeout_s: float
) -> Object:
    """The launcher is the coordinator, and the workers lend it their ranks: no ssh, and no MPI in the image.

    Source: https://github.com/kubeflow/mpi-operator/blob/master/pkg/apis/kubeflow/v2beta1/types.go
    """
    return {
        "apiVersion": MPI_JOB.version,
        "kind": MPI_JOB.kind,
        "metadata": metadata,
        "spec": {
            "slotsPerWorker": shape.slots,
            # The name of a coordinator that came before its workers would not be known to them yet.
            "launcherCreationPolicy": "WaitForWorkersReady",
            "runPolicy": {
                "suspend": True,
                "cleanPodPolicy": "Running",
                # It has no failure policy that tells a lost node from a wrong script: Airflow tries again.
                "backoffLimit": 0,
                "activeDeadlineSeconds": max(1, int(timeout_s)),
                "ttlSecondsAfterFinished": compute.keep_s,
            },
            "mpiReplicaSpecs": {
                "Launcher": {"replicas": 1, "restartPolicy": "Never", "template": launcher},
                "Worker": {"replicas": shape.pods, "restartPolicy": "OnFailure", "template": worker},
            },
        },
    }


def _beside(kind: str, version: str, name: str, metadata: Object) -> Object:
    about = {"name": name, "namespace": metadata["namespace"], "labels": metadata["labels"]}
    return {"apiVersion": version, "kind": kind, "metadata": about}


def _request(request: JobRequest, names: Names, metadata: Object) -> Object:
    text = request.model_dump_json()
    if len(text.encode()) > _LARGEST_REQUEST:
        raise SpecError(
            f"the request has {len(text.encode()):,} bytes, and Kubernetes takes {_LARGEST_REQUEST:,}",
            where=f"model {request.model.name}",
            remedy="shorten the declaration: its schema, its parameters, or the pod template",
        )
    return {**_beside("ConfigMap", "v1", names.request, metadata), "immutable": True, "data": {"request.json": text}}


def _secret(name: str, data: Mapping[str, str], metadata: Object) -> Object:
    return {**_beside("Secret", "v1", name, metadata), "type": "Opaque", "immutable": True, "stringData": dict(data)}


def _service(name: str, selector: Mapping[str, str], metadata: Object) -> Object:
    """Names for the pods, also for those that are only starting."""
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": dict(selector)}
    return {**_beside("Service", "v1", name, metadata), "spec": spec}


def _network_policy(selector: Mapping[str, str], names: Names, metadata: Object) -> Object:
    """Nobody but its own pods speaks to a job: what Gloo and NCCL say to each other is not authenticated."""
    pods = {"matchLabels": dict(selector)}
    spec = {"podSelector": pods, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": pods}]}]}
    return {**_beside("NetworkPolicy", "networking.k8s.io/v1", names.job, metadata), "spec": spec}


def _pod_group(shape: Shape, compute: KubernetesCompute, names: Names, metadata: Object) -> Object:
    """So many pods are placed as the work needs, or none.

    Source: https://github.com/kubernetes-sigs/scheduler-plugins/tree/master/pkg/coscheduling
    """
    spec = {"minMember": shape.fewest, "scheduleTimeoutSeconds": int(compute.start_timeout_s)}
    return {**_beside("PodGroup", "scheduling.x-k8s.io/v1alpha1", names.job, metadata), "spec": spec}
