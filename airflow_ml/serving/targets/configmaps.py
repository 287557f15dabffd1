"""A config in a Kubernetes ConfigMap, which the servers' pods mount.

The lease is an annotation of the same object, so that one compare-and-set on its ``resourceVersion`` holds for both.
Other keys of the ConfigMap are left alone. The kubelet brings a change to the pods' volumes in its own time, a minute
or more: `ModelServers.wait_available` waits for what the servers say, and for nothing else.

Source: https://kubernetes.io/docs/concepts/configuration/configmap/#mounted-configmaps-are-updated-automatically
"""

from __future__ import annotations

from typing import Any

from airflow_ml.compute.kubernetes.api import Api, ApiError, path_of
from airflow_ml.compute.kubernetes.names import MANAGED, PREFIX
from airflow_ml.lifecycle.errors import ClusterError
from airflow_ml.serving.targets.leases import Lease
from airflow_ml.serving.targets.stores import Kept, Moved
from airflow_ml.spec.targets import ConfigMap

LEASE = f"{PREFIX}/config-lease"
"""Annotation: who changes the config, and until when."""


class ConfigMapStore:
    """One key of a ConfigMap, created by the first write.

    Args:
        spec: Which.
        api: Of the cluster.
    """

    def __init__(self, spec: ConfigMap, api: Api) -> None:
        self._spec = spec
        self._api = api
        self._path = path_of("v1", "ConfigMap", spec.namespace, spec.name)

    @property
    def where(self) -> str:
        """Namespace, name and key."""
        return f"ConfigMap {self._spec.namespace}/{self._spec.name} {self._spec.key}"

    def read(self) -> Kept:
        """Ask the API server."""
        try:
            return self._kept(self._api.call("GET", self._path))
        except ApiError as error:
            if error.status == 404:
                return Kept(None, None)
            raise self._told(error) from error

    def replace(self, before: Kept, text: str | None, lease: Lease | None) -> Kept:
        """One request, which is refused if the object changed after it was read."""
        try:
            if before.mark is None:
                made = self._api.call("POST", self._path.rpartition("/")[0], None, self._whole(text, lease))
            else:
                made = self._api.call("PATCH", self._path, None, self._changes(before, text, lease))
            return self._kept(made)
        except ApiError as error:
            if error.status != 409 and not (error.status == 404 and before.mark is not None):
                raise self._told(error) from error
        # A request whose answer was lost is repeated, and then refused because of itself.
        found = self.read()
        if found.mark is not None and (found.text, found.lease) == (text, lease):
            return found
        raise Moved

    def _whole(self, text: str | None, lease: Lease | None) -> dict[str, Any]:
        notes = {} if lease is None else {LEASE: lease.to_json()}
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self._spec.name, "labels": MANAGED, "annotations": notes},
            "data": {} if text is None else {self._spec.key: text},
        }

    def _changes(self, before: Kept, text: str | None, lease: Lease | None) -> dict[str, Any]:
        changes: dict[str, Any] = {
            "metadata": {
                "resourceVersion": before.mark,
                "annotations": {LEASE: None if lease is None else lease.to_json()},
            }
        }
        if text is not None and text != before.text:
            changes["data"] = {self._spec.key: text}
        return changes

    def _kept(self, found: dict[str, Any]) -> Kept:
        metadata = found["metadata"]
        lease = (metadata.get("annotations") or {}).get(LEASE)
        return Kept(
            (found.get("data") or {}).get(self._spec.key),
            None if lease is None else Lease.from_json(lease, f"{self.where}, annotation {LEASE}"),
            metadata["resourceVersion"],
        )

    def _told(self, error: ApiError) -> ClusterError:
        remedies = {
            403: "grant it: docker/kubernetes/serving-role.yaml is a Role with all that is needed",
            404: "create the namespace, or correct it in the platform's serving target",
        }
        found = error.told(remedies.get(error.status, "look at the cluster, and at the connection that leads to it"))
        found.where = f"{self.where}: {error.where}"
        return found
