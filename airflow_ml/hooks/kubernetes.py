"""The API server of a cluster, through the `cncf.kubernetes` provider's hook and connection type."""

from typing import Any

from airflow_ml.compute.kubernetes.api import ClientApi
from airflow_ml.lifecycle.errors import SpecError


def cluster(conn_id: str) -> ClientApi:
    """The API server that a connection of type ``kubernetes`` leads to.

    Raises:
        SpecError: The provider is not installed, or the connection leads nowhere.
    """
    try:
        # Seconds and 110 MB: only tasks that use a cluster pay for it.
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
    except ImportError as error:
        raise SpecError(
            f"the platform names a Kubernetes cluster, and {error.name} is not installed",
            where=f"connection {conn_id}",
            remedy="pip install 'airflow-ml[kubernetes]' where tasks run",
        ) from error
    from kubernetes.config import ConfigException

    def connect() -> Any:
        return KubernetesHook(conn_id=conn_id).get_conn()

    try:
        return ClientApi(connect)
    except ConfigException as error:
        raise SpecError(
            f"it leads to no cluster: {error}",
            where=f"connection {conn_id}",
            remedy="set one of in_cluster, kube_config_path and kube_config in its extras",
        ) from error
