"""The demo's training as pods of the cluster that KUBECONFIG leads to."""

import json
import os
import sys
from pathlib import Path

from airflow_ml.compute.kubernetes.api import ApiError, ClientApi
from airflow_ml.compute.kubernetes.host import host_template
from airflow_ml.examples.flights.model import flights
from airflow_ml.lifecycle.errors import SpecError

NAMESPACE = "airflow-ml-demo"
IMAGE = "localhost/base:1"


def computes(base: Path) -> str:
    """The setting ``computes``: the caller's ``AIRFLOW_ML_COMPUTES``, or pods that see this machine's environment.

    Raises:
        SpecError: There is no cluster.
    """
    if not os.environ.get("KUBECONFIG"):
        raise SpecError("no cluster", where="KUBECONFIG", remedy="set it to the file that leads to one")
    given = os.environ.get("AIRFLOW_ML_COMPUTES")
    if given:
        return given
    _make_namespace()
    template = host_template(base)
    # The one node is this machine: workers that take its cores from each other train at a crawl.
    share = max(1, (os.cpu_count() or 1) // flights.training.workers)
    template["spec"]["containers"][0]["resources"] = {"limits": {"cpu": str(share)}, "requests": {"cpu": "100m"}}
    pods = {
        "kind": "kubernetes",
        "namespace": NAMESPACE,
        "image": IMAGE,
        "python": sys.executable,
        "template": template,
    }
    return json.dumps({"train": pods})


def _make_namespace() -> None:
    from kubernetes.config import new_client_from_config

    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    try:
        ClientApi(new_client_from_config).call("POST", "/api/v1/namespaces", None, body)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise error.told() from error
