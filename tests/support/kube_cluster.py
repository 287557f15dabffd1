"""A cluster for tests: what they ask of its API server, and pods that run this machine's environment."""

import os
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

from airflow_ml import KubernetesCompute
from airflow_ml.compute.kubernetes.api import ApiError, path_of
from airflow_ml.compute.kubernetes.host import host_template
from airflow_ml.compute.kubernetes.names import PART_OF

FAKE = Path(__file__).with_name("fake_pod.py")

needs_cluster = pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="no cluster: set KUBECONFIG")


class Cluster:
    """What tests ask of the API server."""

    def __init__(self, api, namespace):
        self.api = api
        self.namespace = namespace

    def list(self, kind, selector=None, version="v1"):
        query = {"labelSelector": selector} if selector else {}
        return self.api.call("GET", path_of(version, kind, self.namespace), query)["items"]

    def jobs(self):
        return self.list("Job", version="batch/v1")

    def pods(self, job=None):
        return self.list("Pod", job and f"{PART_OF}={job}")

    def log(self, pod):
        """What the pod's container has said."""
        return self.api.call("GET", path_of("v1", "Pod", self.namespace, pod["metadata"]["name"]) + "/log")

    def delete_pod(self, name, grace_s):
        self.api.call("DELETE", path_of("v1", "Pod", self.namespace, name), None, {"gracePeriodSeconds": grace_s})

    def create(self, path, body):
        return self.api.call("POST", path, None, body)


def until(condition, seconds=60.0, every_s=0.2):
    """What a condition answers when it holds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(every_s)
    return found


def connect():
    """A client of the cluster that KUBECONFIG leads to."""
    from kubernetes.config import new_client_from_config

    return new_client_from_config()


@contextmanager
def namespace(api):
    """A namespace, removed with all that is in it."""
    name = f"airflow-ml-{uuid.uuid4().hex[:8]}"
    api.call("POST", "/api/v1/namespaces", None, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    try:
        yield Cluster(api, name)
    finally:
        try:
            api.call("DELETE", f"/api/v1/namespaces/{name}")
        except ApiError as error:
            if error.status != 404:
                raise


class Seats:
    """A resource that the first node has for one namespace only.

    Source: https://kubernetes.io/docs/tasks/administer-cluster/extended-resource-node/
    """

    def __init__(self, cluster):
        self.resource = f"example.com/{cluster.namespace}"
        self._api = cluster.api
        self._path = f"/api/v1/nodes/{self._api.call('GET', '/api/v1/nodes')['items'][0]['metadata']['name']}/status"

    def offer(self, number):
        """Let so many pods that ask for one be scheduled; None takes the resource away."""
        there = {self.resource: None if number is None else str(number)}
        # What is allocatable follows from the capacity, but seconds later.
        self._api.call("PATCH", self._path, None, {"status": {"capacity": there, "allocatable": there}})


@contextmanager
def seats_of(cluster):
    """Seats, taken away again."""
    seats = Seats(cluster)
    try:
        yield seats
    finally:
        seats.offer(None)


def image_of_tests():
    """Image with Python in which folders of this machine can be mounted: its only node is this machine."""
    found = os.environ.get("AIRFLOW_ML_TEST_IMAGE")
    if not found:
        pytest.skip("no image that runs this machine's environment: set AIRFLOW_ML_TEST_IMAGE")
    return found


def real_compute(namespace_, *writable, **changes):
    """A compute whose pods run this machine's environment."""
    fields = {
        "namespace": namespace_,
        "image": image_of_tests(),
        "python": sys.executable,
        "template": host_template(*writable),
        "lease_s": 60,
    }
    spec = fields["template"]["spec"]
    spec["terminationGracePeriodSeconds"] = 3
    # Ranks that take the cores of a small machine from each other train at a crawl.
    spec["containers"][0]["resources"] = {"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}}
    return KubernetesCompute(**fields | changes)


def fake_compute(namespace_, base, **changes):
    """A compute whose pods do what the request's params say, without the seconds of real imports."""
    script = base / "fakepython"
    if not script.exists():
        script.write_text(f'#!/bin/sh\nexec {Path(sys.base_prefix)}/bin/python3 -I -S {FAKE} "$@"\n')
        script.chmod(0o755)
    return real_compute(namespace_, base, python=str(script), **changes)
