"""Where stages run: a process of this machine, or pods of a Kubernetes cluster. Part of a `Platform`."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from airflow_ml.spec.base import Frozen

_DNS_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
_QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$")


class LocalCompute(Frozen):
    """A process of the machine that runs the task.

    Attributes:
        python: Interpreter; None is the running one.
        grace_s: Seconds between asking a job to end and ending it.
    """

    kind: Literal["local"] = "local"
    python: str | None = None
    grace_s: float = Field(default=5.0, ge=0)


def _dns_label(value: str) -> str:
    if not _DNS_LABEL.match(value):
        raise ValueError(f"{value!r} is no name in Kubernetes; use at most 63 lower-case letters, digits and '-'")
    return value


def _quantity(value: str) -> str:
    if not _QUANTITY.match(value):
        raise ValueError(f"{value!r} is no quantity of Kubernetes; write it like '2Gi'")
    return value


def _pod_template(value: Any) -> Any:
    """A pod as plain values: read from a YAML file, taken out of a model of the Kubernetes client, or as it is."""
    if isinstance(value, str | Path):
        import yaml

        try:
            value = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"cannot read {value}: {error.strerror}; give the path of a YAML file") from error
        except yaml.YAMLError as error:
            raise ValueError(f"{value} is no YAML: {' '.join(str(error).split())}; correct the file") from error
    value = _plain(value)
    if isinstance(value, dict):
        kind = value.get("kind", "Pod")
        if kind == "PodTemplate":
            value = value.get("template")
        elif kind != "Pod":
            raise ValueError(f"it describes a {kind}; give a Pod, or what a Pod consists of: metadata and spec")
        if isinstance(value, dict):
            _shaped(value)
            # A template lists `base` first; one that only places pods need not name a container at all.
            return {name: part for name, part in value.items() if name in ("metadata", "spec") and part}
    raise ValueError("give a mapping with `metadata` and `spec`, the path of a YAML file, or a V1PodTemplateSpec")


_LISTS = {"containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath"}
"""Lists of a pod that are merged, and what each of their items has."""
_MAPPINGS = ("labels", "annotations", "resources")


def _shaped(template: dict[str, Any]) -> None:
    """Refuse what cannot be merged: the API server, which knows the rest of a pod, would not see it."""
    unknown = sorted(template.keys() - {"apiVersion", "kind", "metadata", "spec", "status"})
    if unknown:
        raise ValueError(
            f"it has {', '.join(unknown)} beside `metadata` and `spec`; indent what belongs to one of them"
        )
    for name in ("metadata", "spec"):
        _mapping(name, template.get(name))


def _mapping(where: str, value: Any) -> None:
    """Refuse a part of a pod that is no mapping, or has lists or mappings that are none."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise ValueError(f"{where} is a {type(value).__name__}; it is a mapping")
    for name in _MAPPINGS:
        _mapping(f"{where}.{name}", value.get(name))
    for name, key in _LISTS.items():
        items = value.get(name)
        if items is not None and not isinstance(items, list):
            raise ValueError(f"{where}.{name} is a {type(items).__name__}; it is a list")
        for number, item in enumerate(items or ()):
            at = f"{where}.{name}[{number}]"
            if isinstance(item, dict) and key not in item and name != "containers":
                raise ValueError(f"{at} has no {key}; add it")
            _mapping(at, item)


def _plain(value: Any) -> Any:
    """A model of the Kubernetes client as it travels; the client itself stays out of DAG files."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    names = getattr(value, "attribute_map", None)
    if names is None:
        return value
    found = {key: getattr(value, name) for name, key in names.items()}
    return {key: _plain(item) for key, item in found.items() if item is not None}


DnsLabel = Annotated[str, AfterValidator(_dns_label)]
PodTemplate = Annotated[dict[str, Any], BeforeValidator(_pod_template)]


class KubernetesCompute(Frozen):
    """Pods of a cluster: one for each worker of a training, and one for any other stage.

    The pods see the platform's base at the same path as this machine does; the template mounts it.

    Attributes:
        namespace: Of everything that is created.
        conn_id: Airflow connection of the `cncf.kubernetes` provider.
        image: Image of the pods; a model's ``training.image`` has precedence for its training.
        python: Interpreter in the image.
        template: A pod: the path of a YAML file, a ``V1PodTemplateSpec`` or a mapping. It is merged under what we need
            by the provider's rules: its first container is the worker and is called ``base``. One that serves beside
            it is an init container with ``restartPolicy: Always``, which ends with it; for others a task whose worker
            has ended waits 20 s. Resources, volumes, node selector, tolerations, priority class, service account and
            pull secrets are said here.
        engine: ``job``, an Indexed Job, needs nothing but Kubernetes. ``mpijob`` hands a training to Kubeflow's MPI
            operator, for clusters that account for training by it; other stages are Jobs all the same.
        queue: Local queue of Kueue, which admits all pods of a job or none. What a job waits for there is told in the
            task's log, and is no part of ``start_timeout_s``; one that Kueue suspends for another is waited for.
        pod_group: Whether the scheduler plugins' coscheduling places the pods, all or none.
        max_gpus: GPUs that one job may ask for; more are refused before anything is submitted.
        shm: Size of ``/dev/shm``, which is memory of the pod.
        start_timeout_s: A job whose pods do not all run by then is ended, and says what they waited for.
        lease_s: A job ends when nobody has waited for it for so long.
        keep_s: An ended job and its pods' logs stay so long.
    """

    kind: Literal["kubernetes"] = "kubernetes"
    namespace: DnsLabel
    conn_id: str = "kubernetes_default"
    image: str | None = None
    python: str = "python"
    template: PodTemplate = Field(default_factory=dict)
    engine: Literal["job", "mpijob"] = "job"
    queue: DnsLabel | None = None
    pod_group: bool = False
    max_gpus: int | None = Field(default=None, ge=0)
    shm: Annotated[str, AfterValidator(_quantity)] = "2Gi"
    start_timeout_s: float = Field(default=900.0, gt=0)
    lease_s: float = Field(default=900.0, ge=30)
    keep_s: int = Field(default=3600, ge=0)


def _kind(value: Any) -> str:
    kind = value.get("kind", "local") if isinstance(value, dict) else getattr(value, "kind", "local")
    return str(kind)


AnyCompute = Annotated[
    Annotated[LocalCompute, Tag("local")] | Annotated[KubernetesCompute, Tag("kubernetes")], Discriminator(_kind)
]
"""Settings without a kind are those of a local process."""
