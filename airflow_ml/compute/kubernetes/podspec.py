"""The pods of a job: our defaults, under the user's template, under what has to be so."""

from dataclasses import dataclass
from typing import Literal

from airflow_ml.compute.kubernetes.names import (
    COORDINATOR,
    INDEX,
    MPI_INDEX,
    MPI_JOB,
    PART_OF,
    ROLE,
    WORKER,
    Engine,
    Names,
)
from airflow_ml.compute.kubernetes.templates import BASE, Object, merge, reconcile
from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.spec import KubernetesCompute

PORT = 4242
"""Of the coordinator, to which the pods connect."""

FOLDER = "/etc/airflow-ml"
GPU = "nvidia.com/gpu"

COORDINATOR_RESOURCES = {"requests": {"cpu": "250m", "memory": "512Mi"}}
"""It computes nothing: what a worker asks for would only keep it waiting."""

Role = Literal["peer", "coordinator", "worker"]
"""A peer trains, and the first of them coordinates, too; otherwise that is done by one that trains nothing."""


@dataclass(frozen=True)
class Shape:
    """Pods of a stage, and processes in each.

    Attributes:
        pods: One for each worker that a training can have, and one for any other stage.
        fewest: With which the work goes on.
        slots: Ranks of a pod: one for each of its GPUs.
        gpus: Of a pod.
        image: Of its container.
    """

    pods: int
    fewest: int
    slots: int
    gpus: int
    image: str

    @property
    def elastic(self) -> bool:
        """Whether the work goes on without some of its pods."""
        return self.fewest < self.pods


def shape_of(request: JobRequest, compute: KubernetesCompute) -> Shape:
    """How many pods a request takes.

    Raises:
        SpecError: There is no image, or it asks for more GPUs than may be asked for.
    """
    training = request.model.training
    trains = request.stage == "train"
    image = (training.image if trains else None) or compute.image
    if image is None:
        raise SpecError(
            "no image is declared for the pods",
            where=f"model {request.model.name}, stage {request.stage}",
            remedy="set `image` of the platform's Kubernetes compute, or of the model's training",
        )
    if not trains:
        return Shape(pods=1, fewest=1, slots=1, gpus=0, image=image)
    gpus = training.most_workers * training.gpus_per_worker
    if compute.max_gpus is not None and gpus > compute.max_gpus:
        raise SpecError(
            f"{training.most_workers} workers of {training.gpus_per_worker} GPUs are {gpus}, and one job may ask for "
            f"{compute.max_gpus}",
            where=f"model {request.model.name}, training",
            remedy="use fewer workers, or raise `max_gpus` of the platform's compute",
        )
    fewest = training.min_workers or training.workers
    return Shape(training.most_workers, fewest, max(1, training.gpus_per_worker), training.gpus_per_worker, image)


def pod(
    engine: Engine, role: Role, compute: KubernetesCompute, shape: Shape, names: Names, folder: str, metadata: Object
) -> Object:
    """One pod, as a template.

    Args:
        engine: What makes it.
        role: Its part.
        compute: With the user's template.
        shape: How many there are.
        names: Of the job's objects.
        folder: Of the request.
        metadata: Labels and annotations.
    """
    made = reconcile(
        reconcile(_defaults(compute, names, shape), compute.template),
        _ours(engine, role, compute, shape, names, folder, metadata),
    )
    first, *others = made["spec"]["containers"]
    if role == COORDINATOR:
        first["resources"] = COORDINATOR_RESOURCES
    elif shape.gpus:
        # The provider's rules would take the one's resources or the other's.
        resources = first.get("resources") or {}
        first["resources"] = {**resources, "limits": merge(resources.get("limits") or {}, {GPU: str(shape.gpus)})}
    made["spec"]["containers"] = [first, *others]
    return made


def _defaults(compute: KubernetesCompute, names: Names, shape: Shape) -> Object:
    """What holds unless the template says otherwise."""
    container = {
        "name": BASE,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec: Object = {
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
    }
    if compute.pod_group:
        # As its chart calls it.
        spec["schedulerName"] = "scheduler-plugins-scheduler"
    if shape.pods > 1:
        own = {"matchLabels": {PART_OF: names.job}}
        near = {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": own}
        prefer = [{"weight": 100, "podAffinityTerm": near}]
        spec["affinity"] = {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": prefer}}
    return {"spec": spec}


def _ours(
    engine: Engine, role: Role, compute: KubernetesCompute, shape: Shape, names: Names, folder: str, metadata: Object
) -> Object:
    """What has to be so."""
    container: Object = {
        "name": BASE,
        "image": shape.image,
        "command": [compute.python, "-m", "airflow_ml.stages.pod"],
        "env": _variables(engine, role, compute, shape, names, folder),
        "envFrom": [{"secretRef": {"name": names.secrets}}],
        "volumeMounts": [
            {"name": "airflow-ml-request", "mountPath": f"{FOLDER}/request", "readOnly": True},
            {"name": "airflow-ml-key", "mountPath": f"{FOLDER}/key", "readOnly": True},
            {"name": "airflow-ml-shm", "mountPath": "/dev/shm"},
        ],
        # What a container says last is what a person reads first when it has failed.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    spec: Object = {
        "containers": [container],
        "volumes": [
            {"name": "airflow-ml-request", "configMap": {"name": names.request}},
            {"name": "airflow-ml-key", "secret": {"secretName": names.key}},
            {"name": "airflow-ml-shm", "emptyDir": {"medium": "Memory", "sizeLimit": compute.shm}},
        ],
    }
    if engine is not MPI_JOB:
        spec["restartPolicy"] = "Never"
        if shape.pods > 1:
            spec["subdomain"] = names.service
    labels = {**metadata["labels"]}
    if role != "peer":
        labels[ROLE] = role
    # A coordinator by itself holds up nobody: a group is of those that can do nothing without each other.
    if compute.pod_group and (engine is MPI_JOB or role != COORDINATOR):
        labels["scheduling.x-k8s.io/pod-group"] = names.job
    return {"metadata": {**metadata, "labels": labels}, "spec": spec}


def _variables(
    engine: Engine, role: Role, compute: KubernetesCompute, shape: Shape, names: Names, folder: str
) -> list[Object]:
    # The operator gives a launcher a name in a service of the workers, where nobody finds it: ours is of the launcher.
    host = names.coordinator if engine is MPI_JOB else f"{names.job}-0.{names.service}"
    values = {
        "AIRFLOW_ML_FOLDER": folder,
        "AIRFLOW_ML_PODS": str(shape.pods),
        "AIRFLOW_ML_MIN_PODS": str(shape.fewest),
        "AIRFLOW_ML_SLOTS": str(shape.slots),
        "AIRFLOW_ML_COORDINATOR": f"{host}:{PORT}",
        "AIRFLOW_ML_KEY": f"{FOLDER}/key/key",
        "AIRFLOW_ML_LEASE_S": f"{compute.lease_s:g}",
        "PYTHONUNBUFFERED": "1",
    }
    if role == COORDINATOR:
        values["AIRFLOW_ML_INDEX"] = COORDINATOR
    fields = {"AIRFLOW_ML_POD_IP": "status.podIP"}
    if role == WORKER:
        fields["AIRFLOW_ML_INDEX"] = f"metadata.labels['{MPI_INDEX if engine is MPI_JOB else INDEX}']"
    return [
        *({"name": name, "value": value} for name, value in values.items()),
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
    ]
