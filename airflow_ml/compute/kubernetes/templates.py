"""Merging a user's pod template under ours, by the rules that `cncf.kubernetes` merges pods by, on plain values.

What both say, ours says; labels and annotations are joined; volumes, and mounts, environment and ports of a container
are appended; containers are merged by their place, init containers by their name; anything else is taken whole from
whoever says it.

Source: https://github.com/apache/airflow/blob/main/providers/cncf/kubernetes/src/airflow/providers/cncf/kubernetes/pod_generator.py
(`PodGenerator.reconcile_pods`), which the tests compare with.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_ml.lifecycle.errors import SpecError

Object = dict[str, Any]

BASE = "base"
"""Name of the container that does the work, as the provider calls it."""

RESERVED_ENV = ("AIRFLOW_ML_", "HOROVOD_", "JOB_COMPLETION_INDEX")
"""Beginnings of the names of variables that we set."""

RESERVED_PATHS = ("/etc/airflow-ml", "/dev/shm")

_APPENDED = ("volumeMounts", "env", "envFrom", "ports", "volumeDevices")


def reconcile(base: Mapping[str, Any], client: Mapping[str, Any]) -> Object:
    """A pod out of two, each with ``metadata`` and ``spec``; what `client` says is said."""
    merged = merge(base, client)
    merged["metadata"] = _metadata(base.get("metadata") or {}, client.get("metadata") or {})
    merged["spec"] = _spec(base.get("spec") or {}, client.get("spec") or {})
    return {name: part for name, part in merged.items() if part}


def merge(base: Mapping[str, Any], client: Mapping[str, Any]) -> Object:
    """Fields of both; of one that both have, the client's, unless it is empty."""
    return {**base, **{name: value for name, value in client.items() if value or name not in base}}


def _metadata(base: Mapping[str, Any], client: Mapping[str, Any]) -> Object:
    merged = merge(base, client)
    for name in ("labels", "annotations"):
        joined = {**(base.get(name) or {}), **(client.get(name) or {})}
        if joined:
            merged[name] = joined
    return merged


def _spec(base: Mapping[str, Any], client: Mapping[str, Any]) -> Object:
    merged = merge(base, client) | _appended(base, client, ("volumes",))
    containers = _by_place(base.get("containers") or (), client.get("containers") or ())
    if containers:
        merged["containers"] = containers
    inits = _by_name(base.get("initContainers") or (), client.get("initContainers") or ())
    if inits:
        merged["initContainers"] = inits
    return merged


def _appended(base: Mapping[str, Any], client: Mapping[str, Any], names: Sequence[str]) -> Object:
    joined = {name: [*(base.get(name) or ()), *(client.get(name) or ())] for name in names}
    return {name: items for name, items in joined.items() if items}


def _container(base: Mapping[str, Any], client: Mapping[str, Any]) -> Object:
    return merge(base, client) | _appended(base, client, _APPENDED)


def _by_place(base: Sequence[Object], client: Sequence[Object]) -> list[Object]:
    shared = [_container(*pair) for pair in zip(base, client, strict=False)]
    return [*shared, *base[len(shared) :], *client[len(shared) :]]


def _by_name(base: Sequence[Object], client: Sequence[Object]) -> list[Object]:
    ours = {container["name"]: container for container in client}
    known = {container["name"] for container in base}
    merged = [_container(each, ours[each["name"]]) if each["name"] in ours else each for each in base]
    return [*merged, *(container for container in client if container["name"] not in known)]


def check(template: Mapping[str, Any]) -> None:
    """Refuse a template that says what we have to say.

    Raises:
        SpecError: With every conflict.
    """
    spec = template.get("spec") or {}
    containers = spec.get("containers") or []
    found = [
        f"spec.{name} is {spec[name]!r}"
        for name, ours in (("restartPolicy", "Never"), ("subdomain", None), ("hostname", None))
        if spec.get(name) not in (None, ours)
    ]
    names = [container.get("name") for container in containers]
    if names and names[0] != BASE:
        found.append(f"its first container is called {names[0]!r}; it is the worker, and is called {BASE!r}")
    for container in containers:
        said = [name for name in ("command", "args") if container.get(name) and container.get("name") == BASE]
        found += [f"the container {BASE!r} has {name}" for name in said]
        found += [
            f"the container {container.get('name')!r} sets {variable['name']}"
            for variable in container.get("env") or ()
            if variable["name"].startswith(RESERVED_ENV)
        ]
        found += [
            f"the container {container.get('name')!r} mounts {mount['mountPath']}"
            for mount in container.get("volumeMounts") or ()
            if mount["mountPath"].rstrip("/") in RESERVED_PATHS
        ]
    found += [
        f"the volume {volume['name']!r} has a name of ours"
        for volume in spec.get("volumes") or ()
        if volume["name"].startswith("airflow-ml-")
    ]
    if found:
        raise SpecError(
            f"the pod template says what is ours to say: {'; '.join(found)}",
            where="the platform's compute, template",
            remedy="remove it there: the command, the rank and what comes with them are added to the template",
        )
