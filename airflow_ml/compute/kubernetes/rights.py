"""What we do in a namespace, and whether we may: asked before anything is submitted."""

from airflow_ml.compute.kubernetes.api import Api
from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.spec import KubernetesCompute

_ALL = ("create", "get", "list", "watch", "patch", "delete")

NEEDED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("batch", "jobs", _ALL),
    ("", "pods", ("list", "watch")),
    ("", "pods/log", ("get",)),
    ("", "events", ("list",)),
    ("", "configmaps", ("create",)),
    ("", "secrets", ("create",)),
    ("", "services", ("create",)),
    ("networking.k8s.io", "networkpolicies", ("create",)),
)
"""API group, resource and verbs. ``docker/kubernetes/role.yaml`` grants them."""

_PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def require_rights(api: Api, spec: KubernetesCompute) -> None:
    """Make sure that we may do what we are going to do.

    Raises:
        SpecError: With everything that is missing.
    """
    needed = [*NEEDED]
    if spec.pod_group:
        needed.append(("scheduling.x-k8s.io", "podgroups", ("create",)))
    if spec.queue is not None:
        needed.append(("kueue.x-k8s.io", "localqueues", ("get",)))
        needed.append(("kueue.x-k8s.io", "workloads", ("list", "watch")))
    if spec.engine == "mpijob":
        needed.append(("kubeflow.org", "mpijobs", _ALL))
    missing = [
        f"{verb} {resource}"
        for group, resource, verbs in needed
        for verb in verbs
        if not _allowed(api, spec.namespace, group, resource, verb)
    ]
    if missing:
        raise SpecError(
            f"the connection's user may not {', '.join(missing)}",
            where=f"namespace {spec.namespace} of connection {spec.conn_id}",
            remedy="grant it: docker/kubernetes/role.yaml is a Role with all that is needed",
        )


def _allowed(api: Api, namespace: str, group: str, resource: str, verb: str) -> bool:
    name, _, subresource = resource.partition("/")
    about = {"namespace": namespace, "group": group, "resource": name, "verb": verb}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": about | ({"subresource": subresource} if subresource else {})},
    }
    return bool(api.call("POST", _PATH, None, review)["status"].get("allowed"))
