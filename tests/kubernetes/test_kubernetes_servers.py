"""A release into pods of our manifest: S3, ConfigMap, init container, sidecar, kubelet, readiness by the label."""

import copy
import os
import sys

import pytest

from airflow_ml.compute.kubernetes.host import host_template
from airflow_ml.serving.targets.opening import open_servers
from airflow_ml.spec import ConfigMap, Platform, ServingTarget
from tests.support import kube_manifests
from tests.support.kube_cluster import image_of_tests, until
from tests.support.s3 import BUCKET, s3_server
from tests.support.saved_models import half_plus_two

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: This machine, as pods of the tests' cluster see it.
HOST = os.environ.get("AIRFLOW_ML_TEST_HOST", "10.244.0.1")


def on_this_machine(deployment, environment):
    """The manifest's Deployment, with this machine's Python in place of images, and its user, who may read it."""
    found = copy.deepcopy(deployment)
    found["spec"]["replicas"] = 1
    pod, host = found["spec"]["template"]["spec"], host_template()["spec"]
    pod["volumes"] += host["volumes"]
    pod["securityContext"] |= {"runAsUser": os.getuid(), "runAsNonRoot": False}
    python = [sys.executable, "-m"]
    for each in (*pod["initContainers"], *pod["containers"]):
        each["image"] = image_of_tests()
        if each["name"] == "server":
            each["command"] = [*python, "airflow_ml.serving.server", "--host=0.0.0.0"]
        else:
            arguments = [
                f"s3://{BUCKET}/serving" if part == "s3://models/serving" else part for part in each["command"]
            ]
            each["command"] = [*python, "airflow_ml.cli", *arguments[1:]]
        each["env"] = host["containers"][0]["env"] + [
            {"name": name, "value": value} for name, value in environment.items()
        ]
        each["volumeMounts"] = each["volumeMounts"] + host["containers"][0]["volumeMounts"]
        each["resources"] = {}
        probe = each.get("readinessProbe", {}).get("httpGet")
        if probe:
            probe["path"] = probe["path"].replace("/flights/", "/m/")
    return found


def test_a_release_reaches_pods_and_makes_them_ready(cluster, tmp_path):
    two = half_plus_two(tmp_path / "two")
    made = [*kube_manifests.objects("tf-serving-config.yaml"), *kube_manifests.objects("tf-serving.yaml")]
    plural = {"Deployment": "deployments", "PodDisruptionBudget": "poddisruptionbudgets", "Service": "services"}
    plural |= {"ConfigMap": "configmaps", "ServiceAccount": "serviceaccounts"}
    with s3_server(HOST):
        names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
        environment = {name: os.environ[name] for name in names}
        for each in made:
            if each["kind"] == "Deployment":
                each = on_this_machine(each, environment)
            root = f"/apis/{each['apiVersion']}" if "/" in each["apiVersion"] else "/api/v1"
            cluster.create(f"{root}/namespaces/{cluster.namespace}/{plural[each['kind']]}", each)

        def pod():
            return next((each for each in cluster.list("Pod", "app=tf-serving") if each["status"].get("podIP")), None)

        def listens():
            states = {each["name"]: each for each in pod()["status"].get("containerStatuses", ())}
            return states.get("server", {}).get("started")

        def ready():
            conditions = {each["type"]: each["status"] for each in pod()["status"].get("conditions", ())}
            return conditions.get("Ready") == "True"

        until(pod, 60)
        until(listens, 120)
        assert not ready(), "there is no version yet"
        target = ServingTarget(
            folder=f"s3://{BUCKET}/serving",
            seen_as="/models",
            config=ConfigMap(namespace=cluster.namespace, name="models"),
            replicas=(f"{pod()['status']['podIP']}:8500",),
        )
        with open_servers(Platform(base=str(tmp_path), serving=target)) as servers:
            servers.publish(two, "m", 1)
            servers.serve("m", [1])
            hurry(cluster, pod())
            servers.wait_available("m", 1, 120)
            assert not ready(), "it is loaded, and nothing is stable"
            servers.label("m", "stable", 1)
            hurry(cluster, pod())
            servers.wait_label("m", "stable", 1, 120)
            until(ready, 30)
            servers.label("m", "stable", None)
            hurry(cluster, pod())
            servers.wait_label("m", "stable", None, 120)
            until(lambda: not ready(), 30)


def hurry(cluster, pod):
    """A pod that changes is looked after at once; the kubelet brings a ConfigMap by itself in a minute or so."""
    path = f"/api/v1/namespaces/{cluster.namespace}/pods/{pod['metadata']['name']}"
    count = int((pod["metadata"].get("annotations") or {}).get("hurry", 0)) + 1
    cluster.api.call("PATCH", path, None, {"metadata": {"annotations": {"hurry": str(count)}}})
