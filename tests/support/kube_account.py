"""Service accounts of a namespace: some that may do little, and one whom the API server can be made to refuse."""

import json

from kubernetes.client import ApiClient

from tests.support.kube_cluster import Cluster, connect, until

_NAME = "waiter"


def token_of(cluster: Cluster, name: str) -> str:
    """Make an account; returns a token of it."""
    path = f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts"
    cluster.create(path, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    return cluster.create(f"{path}/{name}/token", request)["status"]["token"]


def connect_as(token: str) -> ApiClient:
    """A client whose only credential is a token."""
    client = connect()
    client.configuration.cert_file = client.configuration.key_file = None
    client.configuration.api_key = {"authorization": f"Bearer {token}"}
    return ApiClient(client.configuration)


def bind(cluster: Cluster, name: str, role: str, kind: str = "Role") -> None:
    """Give an account the rights of a role."""
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": cluster.namespace}],
    }
    cluster.create(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{cluster.namespace}/rolebindings", binding)
    about = {"namespace": cluster.namespace, "group": "batch", "resource": "jobs", "verb": "get"}
    spec = {"user": f"system:serviceaccount:{cluster.namespace}:{name}", "resourceAttributes": about}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    # The server hears of its own bindings a moment later.
    until(lambda: cluster.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)["status"]["allowed"])


class Account:
    """The account, and a kubeconfig that reads its token from a file, as one in a pod does.

    Args:
        cluster: Its namespace, in which it may do everything.
        folder: Of the two files.
    """

    def __init__(self, cluster: Cluster, folder) -> None:
        self._cluster = cluster
        self._path = f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts"
        self._token = folder / "token"
        self.config = folder / "kubeconfig"
        bind(cluster, _NAME, "cluster-admin", "ClusterRole")
        self.renew()
        server: ApiClient = connect()
        about = {"server": server.configuration.host, "certificate-authority": server.configuration.ssl_ca_cert}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [{"name": "it", "cluster": about}],
            "users": [{"name": "it", "user": {"tokenFile": str(self._token)}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }
        self.config.write_text(json.dumps(config))

    def renew(self) -> None:
        """Make the account, with a new token."""
        self._token.write_text(token_of(self._cluster, _NAME))

    def expire(self) -> None:
        """Make its token worthless: the server refuses it as it refuses one whose time is over."""
        self._cluster.api.call("DELETE", f"{self._path}/{_NAME}")
