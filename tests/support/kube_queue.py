"""A queue of Kueue for one namespace, and its quota: a number of pods."""

import contextlib
from contextlib import contextmanager

import pytest

from airflow_ml.compute.kubernetes.api import ApiError, path_of
from airflow_ml.compute.kubernetes.queues import GROUP_PATH, JOB_UID, QUEUE, version_of
from tests.support.kube_cluster import until

NAME = "training"
_PRIORITY = "kueue.x-k8s.io/priority-class"


def kueue_of(api):
    """API version of the cluster's Kueue; None where there is none."""
    try:
        return version_of(api.call("GET", GROUP_PATH))
    except ApiError as error:
        if error.status != 404:
            raise
        return None


class Queue:
    """The local queue of a namespace, the cluster queue behind it, and a class of jobs that have precedence.

    Args:
        cluster: The namespace.
        version: Of Kueue's API.
    """

    def __init__(self, cluster, version):
        self._cluster, self._version, self._name = cluster, version, cluster.namespace
        self._root = f"/apis/{version}"

    def open(self, pods):
        """Make it, with room for so many pods."""
        self._make("resourceflavors", "ResourceFlavor", {"spec": {}})
        spec = {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self._cluster.namespace}},
            "preemption": {"withinClusterQueue": "LowerPriority"},
            **self._quota(pods),
        }
        self._make("clusterqueues", "ClusterQueue", {"spec": spec})
        self._make("workloadpriorityclasses", "WorkloadPriorityClass", {"value": 1000})
        self._make_local(NAME)
        until(lambda: self._active(), 20)

    def be_default(self):
        """Make a second local queue, which takes all jobs of the namespace that name none."""
        self._make_local("default")

    def close(self):
        """Take everything away that lies in no namespace; Kueue lets go of it when no job is left."""
        for job in self._cluster.jobs():
            path = path_of("batch/v1", "Job", self._cluster.namespace, job["metadata"]["name"])
            with contextlib.suppress(ApiError):
                self._cluster.api.call("DELETE", path, {"propagationPolicy": "Background"})
        for kind in ("clusterqueues", "resourceflavors", "workloadpriorityclasses"):
            self._cluster.api.call("DELETE", f"{self._root}/{kind}/{self._name}")

    def room_for(self, pods):
        """Change the quota."""
        self._change(self._quota(pods))

    def stop(self):
        """Suspend what runs, and let nothing go."""
        self._change({"stopPolicy": "HoldAndDrain"})

    def go_on(self):
        """Let go again of what there is room for."""
        self._change({"stopPolicy": "None"})

    def workloads(self):
        """What Kueue has noted of the jobs: the UID of each, and the conditions that are true."""
        return {
            each["metadata"]["labels"][JOB_UID]: {
                condition["type"]
                for condition in each.get("status", {}).get("conditions", ())
                if condition["status"] == "True"
            }
            for each in self._cluster.list("Workload", version=self._version)
        }

    def urgent(self, image, seconds):
        """Another one's job of one pod, which has precedence."""
        container = {
            "name": "base",
            "image": image,
            "command": ["sleep", str(seconds)],
            "resources": {"requests": {"cpu": "10m"}},
        }
        body = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "urgent", "labels": {QUEUE: NAME, _PRIORITY: self._name}},
            "spec": {
                "suspend": True,
                "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
            },
        }
        self._cluster.create(path_of("batch/v1", "Job", self._cluster.namespace), body)

    def _quota(self, pods):
        # All that pods ask for has to have a quota, or they are never let go.
        quotas = {"pods": pods, "cpu": 100, "memory": "100Gi"}
        resources = [{"name": name, "nominalQuota": quota} for name, quota in quotas.items()]
        flavors = [{"name": self._name, "resources": resources}]
        return {"resourceGroups": [{"coveredResources": list(quotas), "flavors": flavors}]}

    def _make(self, plural, kind, more):
        body = {"apiVersion": self._version, "kind": kind, "metadata": {"name": self._name}, **more}
        self._cluster.create(f"{self._root}/{plural}", body)

    def _make_local(self, name):
        local = {"metadata": {"name": name}, "spec": {"clusterQueue": self._name}}
        path = path_of(self._version, "LocalQueue", self._cluster.namespace)
        self._cluster.create(path, {"apiVersion": self._version, "kind": "LocalQueue", **local})

    def _change(self, spec):
        self._cluster.api.call("PATCH", f"{self._root}/clusterqueues/{self._name}", None, {"spec": spec})

    def _active(self):
        found = self._cluster.api.call("GET", f"{self._root}/clusterqueues/{self._name}")
        conditions = found.get("status", {}).get("conditions", ())
        return any(each["type"] == "Active" and each["status"] == "True" for each in conditions)


@contextmanager
def queue_of(cluster, pods=2):
    """A queue, taken away again."""
    version = kueue_of(cluster.api)
    if version is None:
        pytest.skip("no Kueue: the cluster has no API group kueue.x-k8s.io")
    queue = Queue(cluster, version)
    try:
        queue.open(pods)
        yield queue
    finally:
        queue.close()
