"""What is kept of objects of a cluster: the templates of thousands of jobs would fill the memory. Pure."""

from typing import Any

Object = dict[str, Any]


def _cut(metadata: Object, names: tuple[str, ...]) -> Object:
    return {name: metadata[name] for name in names if name in metadata}


def cut_job(item: Object) -> Object:
    """What `observe` and an owner look at."""
    return {
        "metadata": _cut(item["metadata"], _JOB_METADATA),
        "status": item.get("status", {}),
    }


def cut_pod(item: Object) -> Object:
    """What `observe` and a log are read by."""
    metadata = _cut(item["metadata"], _POD_METADATA)
    return {"metadata": metadata, "status": _cut(item.get("status", {}), _POD_STATUS)}


def cut_workload(item: Object) -> Object:
    """What Kueue says of a job."""
    metadata = _cut(item["metadata"], ("name", "labels", "ownerReferences"))
    return {"metadata": metadata, "status": _cut(item.get("status", {}), ("conditions",))}


_JOB_METADATA = ("name", "uid", "labels", "annotations", "deletionTimestamp", "ownerReferences")
_POD_METADATA = ("name", "uid", "labels", "annotations", "creationTimestamp", "deletionTimestamp")
_POD_STATUS = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses")
