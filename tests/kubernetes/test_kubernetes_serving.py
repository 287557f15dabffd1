"""The servers' config in a ConfigMap of a real API server, and the manifests of servers and gateway."""

import pytest

from airflow_ml.compute.kubernetes.api import ApiError, ClientApi, path_of
from airflow_ml.lifecycle.errors import ClusterError
from airflow_ml.serving.targets.configmaps import LEASE, ConfigMapStore
from airflow_ml.serving.targets.configuration import configured, with_versions
from airflow_ml.serving.targets.leases import Lease
from airflow_ml.serving.targets.opening import open_servers
from airflow_ml.serving.targets.stores import Kept, Moved
from airflow_ml.serving.targets.writer import Writer
from airflow_ml.spec import ConfigMap, Platform, ServingTarget
from tests.support import config_stores, kube_manifests
from tests.support.kube_cluster import connect

PLURALS = {
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
}


def make(namespace, name):
    return ConfigMapStore(ConfigMap(namespace=namespace, name=name), ClientApi(connect))


@pytest.fixture
def store(cluster):
    return make(cluster.namespace, "models")


@pytest.mark.parametrize("name", kube_manifests.FILES)
def test_the_api_server_takes_the_manifests(cluster, name):
    for each in kube_manifests.objects(name):
        version = each["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        path = f"{root}/namespaces/{cluster.namespace}/{PLURALS[each['kind']]}"
        taken = cluster.api.call("POST", path, {"dryRun": "All", "fieldValidation": "Strict"}, each)
        assert taken["metadata"]["name"] == each["metadata"]["name"]


def test_the_life_of_a_config(cluster, store):
    """Made by the first write; other keys are left alone; a lease is an annotation."""
    nothing = store.read()
    assert nothing == Kept(None, None)
    first = store.replace(nothing, "model_config_list {\n}\n", Lease("me", 5.25))
    assert store.read() == first
    with pytest.raises(Moved):
        store.replace(nothing, "", None)
    path = path_of("v1", "ConfigMap", cluster.namespace, "models")
    cluster.api.call("PATCH", path, None, {"data": {"theirs": "x"}, "metadata": {"annotations": {"a": "b"}}})
    with pytest.raises(Moved):
        store.replace(first, "model_config_list {\n}\n", Lease("me", 9.0))
    Writer(store).change(with_versions("m", [1], "/models/m", store.where))
    found = cluster.api.call("GET", path)
    assert found["data"]["theirs"] == "x"
    assert found["metadata"]["annotations"] == {"a": "b"}
    assert configured(found["data"]["models.config"], "m", "").versions == (1,)
    now = store.read()
    cluster.api.call("DELETE", path)
    with pytest.raises(Moved):
        store.replace(now, now.text, None)


def test_what_every_store_bears(cluster):
    """A foreign model survives 100 rollouts; writers at once; leases; a corrupt config."""
    stores = (make(cluster.namespace, name) for name in "abcd")
    config_stores.a_foreign_model_survives(next(stores))
    config_stores.two_writers_lose_nothing([make(cluster.namespace, "two") for _ in range(2)], rollouts=3)
    config_stores.a_corrupt_config_is_left_alone(next(stores))
    config_stores.a_lease_is_taken_over_only_when_it_has_expired(next(stores))
    config_stores.who_knows_no_lease_is_not_undone(next(stores))


def test_the_platform_leads_to_it(cluster, tmp_path):
    """By KUBECONFIG, as on a command line; a namespace that is not there is told with a remedy."""
    target = ServingTarget(seen_as="/models", config=ConfigMap(namespace=cluster.namespace, name="models"))
    (tmp_path / "serving" / "m" / "1").mkdir(parents=True)
    with open_servers(Platform(base=str(tmp_path), serving=target)) as servers:
        servers.serve("m", [1])
        assert servers.configured("m").versions == (1,)
    found = cluster.api.call("GET", path_of("v1", "ConfigMap", cluster.namespace, "models"))
    assert 'base_path: "/models/m"' in found["data"]["models.config"]
    assert LEASE not in (found["metadata"].get("annotations") or {})
    nowhere = make("airflow-ml-nowhere", "models")
    with pytest.raises(ClusterError, match="create the namespace"):
        Writer(nowhere).change(with_versions("m", [1], "/models/m", ""))
    with pytest.raises(ApiError):
        cluster.api.call("GET", path_of("v1", "ConfigMap", "airflow-ml-nowhere", "models"))
