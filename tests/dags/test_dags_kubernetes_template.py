"""Our merging of pod templates against the provider's own."""

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from airflow_ml.compute.kubernetes.templates import reconcile
from tests.support.kube_jobs import TEMPLATE

NAMES = st.sampled_from(["a", "b", "c"])
TEXTS = st.dictionaries(NAMES, st.sampled_from(["1", "2"]), min_size=1, max_size=2)
MOUNTS = st.lists(NAMES.map(lambda name: {"name": name, "mountPath": f"/{name}"}), max_size=2)
VARIABLES = st.lists(NAMES.map(lambda name: {"name": name, "value": name * 2}), max_size=2)


def optional(**fields):
    """Some of the fields, at least one: what says nothing is left out of a template."""
    return st.fixed_dictionaries({}, optional=fields).filter(bool)


def containers(names):
    fields = st.fixed_dictionaries(
        {},
        optional={
            "image": NAMES,
            "command": st.lists(NAMES, max_size=2),
            "env": VARIABLES,
            "volumeMounts": MOUNTS,
            "resources": optional(limits=TEXTS, requests=TEXTS),
            "tty": st.booleans(),
        },
    )
    return st.lists(st.tuples(names, fields), max_size=3, unique_by=lambda pair: pair[0]).map(
        lambda pairs: [{"name": name, **rest} for name, rest in pairs]
    )


PODS = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"name": NAMES}, optional={"labels": TEXTS, "annotations": TEXTS, "finalizers": st.lists(NAMES, max_size=2)}
        ),
        "spec": st.fixed_dictionaries(
            {"containers": containers(NAMES)},
            optional={
                "initContainers": containers(NAMES),
                "volumes": st.lists(NAMES.map(lambda name: {"name": name}), max_size=2),
                "nodeSelector": TEXTS,
                "hostNetwork": st.booleans(),
                "securityContext": optional(runAsUser=st.integers(0, 3), runAsNonRoot=st.booleans()),
                "schedulerName": NAMES,
                "activeDeadlineSeconds": st.integers(0, 2),
            },
        ),
    }
)


def theirs(base, client):
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

    pods = [PodGenerator.deserialize_model_dict(pod) for pod in (base, client)]
    return PodGenerator.serialize_pod(PodGenerator.reconcile_pods(*pods))


def without_empty(value):
    """The provider's models leave out what is empty in some places and not in others; to Kubernetes both are absent."""
    if isinstance(value, dict):
        kept = {name: without_empty(part) for name, part in value.items()}
        return {name: part for name, part in kept.items() if part not in (None, [], {})}
    if isinstance(value, list):
        return [without_empty(part) for part in value]
    return value


@settings(max_examples=50, deadline=None, phases=[Phase.generate, Phase.shrink])
@given(PODS, PODS)
def test_templates_are_merged_by_the_provider_s_rules(base, client):
    assert without_empty(reconcile(base, client)) == without_empty(theirs(base, client))


def test_a_template_may_be_a_model_of_the_client():
    from kubernetes.client import models as k8s

    from airflow_ml import KubernetesCompute

    given_ = k8s.V1PodTemplateSpec(
        metadata=k8s.V1ObjectMeta(labels={"team": "ml"}),
        spec=k8s.V1PodSpec(
            containers=[k8s.V1Container(name="base", env=[k8s.V1EnvVar(name="A", value="b")])],
            node_selector=TEMPLATE["spec"]["nodeSelector"],
        ),
    )
    assert KubernetesCompute(namespace="ml", template=given_).template == {
        "metadata": {"labels": {"team": "ml"}},
        "spec": {
            "containers": [{"name": "base", "env": [{"name": "A", "value": "b"}]}],
            "nodeSelector": {"example.com/pool": "gpu"},
        },
    }
