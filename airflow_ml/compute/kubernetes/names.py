"""What the objects of one job are called, and how they are found again."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from airflow_ml.lifecycle.fingerprints import fingerprint
from airflow_ml.lifecycle.requests import Coordinates, JobRequest
from airflow_ml.spec import KubernetesCompute

PREFIX = "airflow-ml"
MANAGED = {"app.kubernetes.io/managed-by": PREFIX}

MODEL = f"{PREFIX}/model"
STAGE = f"{PREFIX}/stage"
PART_OF = f"{PREFIX}/job"
"""Label: name of the job that an object belongs to. Its pods have it, whichever object makes them."""
ROLE = f"{PREFIX}/role"
"""Label of pods that are not all alike: one is the `COORDINATOR`, which runs the request and trains nothing."""
COORDINATOR, WORKER = "coordinator", "worker"
FINGERPRINT = f"{PREFIX}/fingerprint"
OWNER = f"{PREFIX}/owner"
"""Annotation: the task instance and try that the job belongs to. Whoever changes it wins; only the owner cancels."""
REQUEST = f"{PREFIX}/request"
"""Annotation: folder of the request, where the answer will be."""
FEWEST = f"{PREFIX}/min-pods"
"""Annotation: how many pods have to run by the start timeout."""
WORKERS = f"{PREFIX}/workers"
"""Annotation: name of the Job of the pods that train, where the coordinator's is one of its own. The latter is *the*
job: it is adopted, cancelled and looked at, and owns the former."""
SUBMITTED = f"{PREFIX}/submitted"
"""Annotation: when the job was let go, seconds since the epoch."""

INDEX = "batch.kubernetes.io/job-completion-index"
MPI_INDEX = "training.kubeflow.org/replica-index"

_LONGEST_LABEL = 63
_LONGEST_NAME = 50
"""A pod is called ``<job>-workers-<index>-<5 letters>``, and its host name, all but the last part, is a label of 63."""


@dataclass(frozen=True)
class Engine:
    """What runs the pods of a job.

    Attributes:
        version: API version of the job.
        kind: Of the job.
    """

    version: str
    kind: str


JOB = Engine("batch/v1", "Job")
MPI_JOB = Engine("kubeflow.org/v2beta1", "MPIJob")


def engine_of(stage: str, compute: KubernetesCompute) -> Engine:
    """A training may be an MPIJob; whatever needs one pod is a Job."""
    return MPI_JOB if compute.engine == "mpijob" and stage == "train" else JOB


def engine_of_kind(kind: str) -> Engine:
    """The engine of an object that is there."""
    return JOB if kind == JOB.kind else MPI_JOB


@dataclass(frozen=True)
class Names:
    """Names of one job's objects. A task instance has one job at a time, because names are unique in a namespace."""

    job: str

    @property
    def service(self) -> str:
        """Headless, so that pods have names."""
        return self.job

    @property
    def coordinator(self) -> str:
        """Headless, for the launcher of an MPIJob: the operator makes a service that is called as the job is."""
        return f"{self.job}-coordinator"

    @property
    def workers(self) -> str:
        """Job of the pods that train, where the coordinator's is one of its own."""
        return f"{self.job}-workers"

    @property
    def request(self) -> str:
        """ConfigMap of the request."""
        return f"{self.job}-request"

    @property
    def secrets(self) -> str:
        """Secret of credentials, which become variables of the pods."""
        return f"{self.job}-secrets"

    @property
    def key(self) -> str:
        """Secret of the key by which the pods know each other, which is no variable."""
        return f"{self.job}-key"

    @classmethod
    def of(cls, request: JobRequest) -> "Names":
        """Names of a request: the same for every try of a task, and never those of another task."""
        at = request.coordinates or Coordinates(dag_id="", task_id=request.stage, run_id="")
        key = "\n".join([request.platform.base, at.dag_id, at.task_id, at.run_id, str(at.map_index)])
        words = f"{request.model.name}-{request.stage}".replace("_", "-")
        digest = hashlib.sha256(key.encode()).hexdigest()[:10]
        return cls(f"{words[: _LONGEST_NAME - len(digest) - 1].rstrip('-')}-{digest}")


def request_fingerprint(request: JobRequest, compute: KubernetesCompute) -> str:
    """What a running job must have been submitted with to be adopted: the request, and the pods that it runs in."""
    return fingerprint(
        request.spec_hash,
        request.stage,
        request.window.model_dump(mode="json") if request.window else None,
        request.params,
        request.inputs,
        # Who waits, and for how long, is no part of what runs.
        compute.model_dump(mode="json", exclude={"conn_id", "max_gpus", "start_timeout_s", "lease_s", "keep_s"}),
    )


def label(value: str) -> str:
    """A text as a label's value, as the provider writes it: what does not fit is cut and gets a hash."""
    safe = re.sub(r"^[^a-z0-9A-Z]*|[^a-zA-Z0-9_\-\.]|[^a-z0-9A-Z]*$", "", value)
    if len(safe) > _LONGEST_LABEL or safe != value:
        digest = hashlib.md5(value.encode(), usedforsecurity=False).hexdigest()[:9]
        safe = f"{safe[: _LONGEST_LABEL - len(digest) - 1]}-{digest}"
    return safe


def task_labels(at: Coordinates | None) -> dict[str, str]:
    """Labels of the task, by the names that the provider gives them."""
    if at is None:
        return {}
    found = {"dag_id": at.dag_id, "task_id": at.task_id, "run_id": at.run_id, "try_number": str(at.try_number)}
    if at.map_index >= 0:
        found["map_index"] = str(at.map_index)
    return {name: label(value) for name, value in found.items()}


def task_annotations(at: Coordinates | None) -> dict[str, str]:
    """The same in full: a label holds 63 characters of some kinds only."""
    if at is None:
        return {}
    found: dict[str, Any] = at.model_dump(exclude={"task_instance"})
    return {name: str(value) for name, value in found.items()}


def owner_of(at: Coordinates | None) -> str:
    """Who waits for a job: a task instance and its try."""
    return f"{at.task_instance}/{at.try_number}" if at is not None else ""
