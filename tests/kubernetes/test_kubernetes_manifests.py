"""What we create, as a real API server sees it, and what it says of a cluster that will not do."""

from pathlib import Path

import pytest
import yaml

from airflow_ml import KubernetesCompute
from airflow_ml.compute import wait
from airflow_ml.compute.kubernetes.api import ApiError, ClientApi, path_of
from airflow_ml.compute.kubernetes.pods import KubernetesPods
from airflow_ml.lifecycle.errors import SpecError
from tests.support.kube_account import bind, connect_as, token_of
from tests.support.kube_cluster import connect
from tests.support.kube_jobs import CASES, manifests_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", CASES)
def test_the_api_server_takes_every_object(cluster, name):
    request = CASES[name]
    compute = request.platform.compute_for(request.stage).model_copy(update={"namespace": cluster.namespace})
    objects = manifests_of(request, compute)
    for each in (objects.job, *objects.others):
        if each["kind"] == "PodGroup":
            continue  # of a scheduler that the cluster need not have
        path = path_of(each["apiVersion"], each["kind"], cluster.namespace)
        taken = cluster.api.call("POST", path, {"dryRun": "All", "fieldValidation": "Strict"}, each)
        assert taken["metadata"]["name"] == each["metadata"]["name"]


def test_a_namespace_that_is_not_there_is_named(api, tmp_path):
    with pytest.raises(SpecError, match=r"the namespace does not exist.*Remedy: create it"):
        submit_from(api, "airflow-ml-nowhere", tmp_path)


def submit_from(api, namespace, folder, **changes):
    request = CASES["two_workers"]
    platform = request.platform.model_copy(update={"base": str(folder)})
    compute = KubernetesPods(KubernetesCompute(namespace=namespace, **changes), api)
    return compute.submit(request.model_copy(update={"platform": platform}), {})


def test_a_template_that_kubernetes_refuses_is_refused_with_its_words_and_nothing_is_left(cluster, tmp_path):
    wrong = {"spec": {"containers": [{"name": "base", "resources": {"limits": {"memory": "much"}}}]}}
    with pytest.raises(SpecError, match=r"the API server refuses the pods: .*quantities must match.*pod template"):
        submit_from(cluster.api, cluster.namespace, tmp_path, template=wrong)
    assert cluster.jobs() == []


def test_a_template_with_a_field_that_kubernetes_does_not_know_is_refused(cluster, tmp_path):
    with pytest.raises(SpecError, match=r"the API server refuses the pods: .*unknown field .*nodeSelectr"):
        submit_from(cluster.api, cluster.namespace, tmp_path, template={"spec": {"nodeSelectr": {"pool": "gpu"}}})
    assert cluster.jobs() == []


def test_missing_rights_are_all_named_before_anything_is_submitted(cluster, tmp_path):
    rules = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch", "create"]}]
    token = token_of(cluster, "weak")
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "weak"}, "rules": rules}
    cluster.create(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{cluster.namespace}/roles", role)
    bind(cluster, "weak", "weak")
    with pytest.raises(SpecError) as caught:
        submit_from(ClientApi(lambda: connect_as(token)), cluster.namespace, tmp_path)
    assert (
        "may not patch jobs, delete jobs, list pods, watch pods, get pods/log, list events, create configmaps"
        in caught.value.what
    )
    assert "role.yaml" in caught.value.remedy
    assert cluster.jobs() == []


def test_the_role_that_we_ship_is_enough_for_the_life_of_a_job(cluster, fake_of, request_of):
    token = token_of(cluster, "airflow-ml")
    for each in yaml.safe_load_all((ROOT / "docker" / "kubernetes" / "role.yaml").read_text()):
        if each["kind"] == "Role":
            path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{cluster.namespace}/roles"
            cluster.create(path, each)
    bind(cluster, "airflow-ml", "airflow-ml")
    compute = fake_of(ClientApi(lambda: connect_as(token)))
    lines = []
    assert wait(compute, compute.submit(request_of(lines=["INFO one"]), {"TOKEN": "x"}), lines.append).rows == 7
    assert "INFO one" in lines
    handle = compute.submit(request_of(do="sleep", try_number=2), {})
    compute.cancel(handle)
    assert cluster.jobs() == []


def test_an_answer_that_is_no_answer_is_an_error_with_a_status():
    def nowhere():
        client = connect()
        client.configuration.host = "https://127.0.0.1:9"
        client.configuration.retries = False
        return type(client)(client.configuration)

    api = ClientApi(nowhere)
    with pytest.raises(ApiError) as caught:
        api._once("GET", "/version", None, None)
    assert caught.value.away
