"""Requests whose manifests are kept as golden files, and sent to a real API server for a dry run."""

from airflow_ml import Horovod, KubernetesCompute, Platform
from airflow_ml.compute.kubernetes.manifests import Manifests, manifests
from airflow_ml.lifecycle.requests import Coordinates, JobRequest
from airflow_ml.lifecycle.windows import Window
from tests.support.models import small_model

TEMPLATE = {
    "metadata": {"labels": {"team": "ml"}, "annotations": {"example.com/cost-center": "42"}},
    "spec": {
        "containers": [
            {
                "name": "base",
                "env": [{"name": "NCCL_DEBUG", "value": "WARN"}],
                "resources": {
                    "requests": {"cpu": "4", "memory": "16Gi"},
                    "limits": {"memory": "16Gi"},
                },
                "volumeMounts": [{"name": "base", "mountPath": "/srv/airflow-ml"}],
            },
            {"name": "exporter", "image": "example.com/gpu-exporter:2"},
        ],
        "initContainers": [{"name": "look", "image": "example.com/look:1", "command": ["true"]}],
        "volumes": [{"name": "base", "persistentVolumeClaim": {"claimName": "airflow-ml"}}],
        "nodeSelector": {"example.com/pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "priorityClassName": "training",
        "serviceAccountName": "trainer",
        "imagePullSecrets": [{"name": "registry"}],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
    },
}

AT = Coordinates(
    dag_id="small_training",
    task_id="train",
    run_id="drift__2013-03-31",
    map_index=2,
    try_number=3,
    task_instance="01890a5d-ac96-774b-bcce-b302099a8057",
)


def _request(stage: str, compute: KubernetesCompute, **training) -> JobRequest:
    return JobRequest(
        stage=stage,
        model=small_model(training=Horovod(**training)),
        platform=Platform(base="/srv/airflow-ml", computes={stage: compute}),
        window=Window.of("2013-01-01", "2013-03-31"),
        coordinates=AT,
    )


CASES: dict[str, JobRequest] = {
    "two_workers": _request("train", KubernetesCompute(namespace="ml"), image="example.com/trainer:1"),
    "gpu_workers": _request(
        "train",
        KubernetesCompute(namespace="ml", template=TEMPLATE, max_gpus=16, shm="8Gi", keep_s=600),
        workers=4,
        gpus_per_worker=2,
        image="example.com/trainer:1",
    ),
    "queued": _request(
        "train", KubernetesCompute(namespace="ml", queue="training"), workers=3, image="example.com/trainer:1"
    ),
    "mpi": _request(
        "train",
        KubernetesCompute(namespace="ml", engine="mpijob", template=TEMPLATE),
        workers=2,
        gpus_per_worker=1,
        image="example.com/trainer:1",
    ),
    "grouped": _request(
        "train", KubernetesCompute(namespace="ml", pod_group=True), workers=3, image="example.com/trainer:1"
    ),
    "elastic": _request(
        "train",
        KubernetesCompute(namespace="ml", template=TEMPLATE),
        workers=3,
        min_workers=2,
        max_workers=4,
        gpus_per_worker=1,
        image="example.com/trainer:1",
    ),
    "one_pod": _request("score", KubernetesCompute(namespace="ml", image="example.com/airflow-ml:1")),
}
"""Name of the golden file to the request."""


def manifests_of(request: JobRequest, compute: KubernetesCompute | None = None) -> Manifests:
    """What the request becomes."""
    declared = compute or request.platform.compute_for(request.stage)
    assert isinstance(declared, KubernetesCompute)
    folder = "/srv/airflow-ml/runs/small/requests/7d2f"
    return manifests(request, declared, folder, {"MLFLOW_TRACKING_PASSWORD": "swordfish"}, "0123abcd", 3600.0)
