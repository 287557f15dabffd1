"""Where a stage runs: one port (`Compute`), one implementation an engine. Imports neither Airflow nor any engine."""

from collections.abc import Callable

from airflow_ml.compute.base import Compute, Handle, JobState, Next, Phase, follow, wait
from airflow_ml.compute.kubernetes.api import Api
from airflow_ml.compute.kubernetes.pods import KubernetesPods
from airflow_ml.compute.local import LocalProcess
from airflow_ml.spec import AnyCompute, KubernetesCompute

__all__ = [
    "Api",
    "Compute",
    "Handle",
    "JobState",
    "KubernetesPods",
    "LocalProcess",
    "Next",
    "Phase",
    "follow",
    "open_compute",
    "wait",
]


def open_compute(spec: AnyCompute, cluster: Callable[[str], Api]) -> Compute:
    """The compute that a platform declares.

    Args:
        spec: The declaration.
        cluster: Connection id to the API server of a cluster.
    """
    if isinstance(spec, KubernetesCompute):
        return KubernetesPods(spec, cluster(spec.conn_id))
    return LocalProcess(spec)
