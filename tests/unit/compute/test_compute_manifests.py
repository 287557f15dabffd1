"""What a request becomes in a cluster: golden files, and declarations that are refused before anything is sent.

python -m tests.unit.compute.test_compute_manifests     writes the golden files anew
"""

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from airflow_ml import Horovod, KubernetesCompute
from airflow_ml.compute.kubernetes.names import Names, label, request_fingerprint
from airflow_ml.compute.kubernetes.queues import NO_QUEUE, QUEUE
from airflow_ml.lifecycle.errors import SpecError
from tests.support.kube_jobs import AT, CASES, TEMPLATE, manifests_of
from tests.support.models import small_model

GOLDEN = Path(__file__).with_name("golden")


def rendered(name: str) -> str:
    objects = manifests_of(CASES[name])
    documents = json.loads(json.dumps([objects.job, *objects.others]))
    for document in documents:
        if document["kind"] == "ConfigMap":
            # The declaration itself: what it holds is tested where it is declared.
            request = json.loads(document["data"]["request.json"])
            document["data"]["request.json"] = f"stage {request['stage']} of {request['model']['name']}"
    text = yaml.safe_dump_all(documents, sort_keys=False, width=120)
    # It changes with every field that a declaration gets; what it is of is tested below.
    compute = CASES[name].platform.compute_for(CASES[name].stage)
    return text.replace(request_fingerprint(CASES[name], compute)[:32], "FINGERPRINT")


@pytest.mark.parametrize("name", CASES)
def test_the_manifests_are_those_of_the_golden_file(name):
    assert rendered(name) == (GOLDEN / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", CASES)
def test_secrets_are_in_secrets_only(name):
    objects = manifests_of(CASES[name])
    for each in (objects.job, *objects.others):
        text = json.dumps(each)
        assert ("swordfish" in text or "0123abcd" in text) == (each["kind"] == "Secret")


def test_everything_is_labelled_and_lies_in_the_namespace():
    objects = manifests_of(CASES["gpu_workers"])
    for each in (objects.job, *objects.others):
        labels = each["metadata"]["labels"]
        assert each["metadata"]["namespace"] == "ml"
        assert (labels["dag_id"], labels["task_id"], labels["map_index"]) == ("small_training", "train", "2")
        assert (labels["airflow-ml/model"], labels["try_number"]) == ("small", "3")
    pod = objects.job["spec"]["template"]
    assert pod["metadata"]["labels"]["team"] == "ml"
    assert pod["metadata"]["annotations"]["run_id"] == AT.run_id


def test_a_job_is_in_no_queue_before_it_is_complete():
    """Not even in the namespace's default one, which Kueue gives to jobs that name none as they are made."""
    objects = manifests_of(CASES["queued"])
    assert (objects.job["metadata"]["labels"][QUEUE], objects.job["spec"]["suspend"]) == (NO_QUEUE, True)
    assert not [each for each in objects.others if QUEUE in each["metadata"]["labels"]]
    assert QUEUE not in manifests_of(CASES["two_workers"]).job["metadata"]["labels"]


def test_what_queues_and_comes_in_a_group_are_the_workers_of_an_elastic_training():
    request = CASES["elastic"]
    compute = request.platform.compute_for("train").model_copy(update={"queue": "training", "pod_group": True})
    made = manifests_of(request, compute)
    (workers,) = [each for each in made.others if each["kind"] == "Job"]
    assert made.jobs == (made.job, workers)
    # The last of what the job owns: it runs, or queues, as soon as it is there.
    assert made.others[-1] is workers
    assert (workers["spec"]["suspend"], workers["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]) == (
        True,
        "training",
    )
    group = "scheduling.x-k8s.io/pod-group"
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in made.jobs]
    assert [group in each for each in labels] == [False, True]
    assert [each["airflow-ml/role"] for each in labels] == ["coordinator", "worker"]
    (its,) = [each for each in made.others if each["kind"] == "PodGroup"]
    assert its["spec"]["minMember"] == 2


def test_the_name_is_that_of_the_task_and_not_of_its_try():
    request = CASES["two_workers"]

    def name(**changes):
        return Names.of(request.model_copy(update={"coordinates": AT.model_copy(update=changes)})).job

    assert name() == name(try_number=4, task_instance="another")
    assert len({name(), name(map_index=3), name(run_id="other"), name(task_id="other"), name(dag_id="other")}) == 5
    long = request.model_copy(update={"model": small_model(name="a" * 63)})
    assert len(Names.of(long).job) <= 50


def test_the_fingerprint_is_of_what_runs():
    request = CASES["gpu_workers"]
    compute = request.platform.compute_for("train")
    first = request_fingerprint(request, compute)
    later = request.model_copy(update={"coordinates": AT.model_copy(update={"try_number": 9})})
    assert request_fingerprint(later, compute.model_copy(update={"lease_s": 77.0})) == first
    assert request_fingerprint(request.model_copy(update={"params": {"training": {"epochs": 2}}}), compute) != first
    assert request_fingerprint(request, compute.model_copy(update={"shm": "1Gi"})) != first


def test_a_label_is_what_kubernetes_takes():
    assert label("plain-1.2_x") == "plain-1.2_x"
    for value in ("manual__2026-01-01T00:00:00+00:00", "ä" * 80, "x" * 64, "-x-", "名前"):
        assert len(label(value)) <= 63
        assert label(value).strip("-_.")[:1].isalnum()
        assert label(value) != label(value + "x")


def refused(match: str, request=None, **changes):
    request = request or CASES["gpu_workers"]
    compute = request.platform.compute_for(request.stage).model_copy(update=changes)
    with pytest.raises(SpecError, match=match):
        manifests_of(request, compute)


def test_pods_need_an_image():
    request = CASES["two_workers"]
    refused("no image is declared", request.model_copy(update={"model": small_model(training=Horovod())}))


def test_more_gpus_than_declared_are_refused():
    refused(r"4 workers of 2 GPUs are 8, and one job may ask for 7", max_gpus=7)
    manifests_of(
        CASES["gpu_workers"], CASES["gpu_workers"].platform.compute_for("train").model_copy(update={"max_gpus": 8})
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"containers": [{"name": "trainer"}]}, "its first container is called 'trainer'"),
        ({"containers": [{"name": "base", "command": ["sleep"]}]}, "the container 'base' has command"),
        ({"containers": [{"name": "base", "env": [{"name": "HOROVOD_RANK", "value": "1"}]}]}, "sets HOROVOD_RANK"),
        (
            {"containers": [{"name": "base", "volumeMounts": [{"name": "x", "mountPath": "/dev/shm/"}]}]},
            "mounts /dev/shm",
        ),
        ({"restartPolicy": "OnFailure"}, "spec.restartPolicy is 'OnFailure'"),
        ({"volumes": [{"name": "airflow-ml-shm"}]}, "the volume 'airflow-ml-shm' has a name of ours"),
    ],
)
def test_a_template_that_says_what_is_ours_is_refused(spec, said):
    refused(said, template={"spec": spec})


def test_a_request_that_is_too_large_is_refused():
    request = CASES["two_workers"].model_copy(update={"params": {"text": "x" * 1_100_000}})
    refused("the request has 1,1.* bytes", request)


def test_a_template_may_be_a_file_or_what_it_says(tmp_path):
    path = tmp_path / "pod.yaml"
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", **TEMPLATE}))
    assert KubernetesCompute(namespace="ml", template=str(path)).template == TEMPLATE
    whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": TEMPLATE}
    assert KubernetesCompute(namespace="ml", template=whole).template == TEMPLATE


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"template": "/nowhere.yaml"}, "cannot read /nowhere.yaml: No such file"),
        ({"template": {"kind": "Deployment"}}, "it describes a Deployment"),
        ({"template": 3}, "give a mapping with `metadata` and `spec`"),
        ({"template": {"spec": {"containers": "base"}}}, r"spec.containers is a str; it is a list"),
        ({"template": {"spec": {"containers": ["base"]}}}, r"spec.containers\[0\] is a str; it is a mapping"),
        ({"template": {"spec": ["base"]}}, r"spec is a list; it is a mapping"),
        ({"template": {"metadata": {"labels": ["a"]}}}, r"metadata.labels is a list; it is a mapping"),
        ({"template": {"spec": {"volumes": [{"emptyDir": {}}]}}}, r"spec.volumes\[0\] has no name"),
        ({"template": {"spec": {"initContainers": [{"image": "i"}]}}}, r"spec.initContainers\[0\] has no name"),
        (
            {"template": {"spec": {"containers": [{"name": "base", "env": {"A": "b"}}]}}},
            r"spec.containers\[0\].env is a dict; it is a list",
        ),
        (
            {"template": {"spec": {"containers": [{"name": "base", "volumeMounts": [{"name": "x"}]}]}}},
            r"spec.containers\[0\].volumeMounts\[0\] has no mountPath",
        ),
        (
            {"template": {"spec": {"containers": [{"name": "base", "resources": "much"}]}}},
            r"spec.containers\[0\].resources is a str",
        ),
        ({"template": {"containers": [{"name": "base"}]}}, "it has containers beside `metadata` and `spec`"),
        ({"namespace": "Not_A_Name"}, "is no name in Kubernetes"),
        ({"shm": "much"}, "write it like '2Gi'"),
        ({"lease_s": 1}, "greater than or equal to 30"),
    ],
)
def test_a_cluster_that_is_declared_wrongly_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        KubernetesCompute(**{"namespace": "ml"} | given)


@pytest.mark.parametrize("given", [{"workers": 0}, {"gpus_per_worker": -1}])
def test_a_training_without_workers_is_refused(given):
    with pytest.raises(ValidationError):
        Horovod(**given)


if __name__ == "__main__":
    for each in CASES:
        (GOLDEN / f"{each}.yaml").write_text(rendered(each))
