"""The model servers that releases go to: where versions are, and how the servers are told what to load."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from airflow_ml.spec.base import Frozen
from airflow_ml.spec.computes import DnsLabel
from airflow_ml.spec.places import Address, Folder, FolderOrBucket

_HOST_PORT = re.compile(r"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})$")
_KEY = re.compile(r"^[-._a-zA-Z0-9]{1,253}$")


class ConfigFile(Frozen):
    """The servers poll ``models.config``, in the folder of the versions; where that is S3, in ``<base>/serving``."""

    kind: Literal["file"] = "file"


class ConfigMap(Frozen):
    """The config is a key of a Kubernetes ConfigMap, which the servers' pods mount.

    Attributes:
        namespace: Of the ConfigMap.
        name: Of the ConfigMap.
        key: In its data.
        conn_id: Airflow connection of the `cncf.kubernetes` provider.
    """

    kind: Literal["configmap"] = "configmap"
    namespace: DnsLabel
    name: DnsLabel
    key: str = "models.config"
    conn_id: str = "kubernetes_default"

    @model_validator(mode="after")
    def _mountable(self) -> Self:
        if not _KEY.match(self.key):
            raise ValueError(f"key: {self.key!r} is no file name in Kubernetes; use letters, digits, '-', '_' and '.'")
        return self


class Reload(Frozen):
    """The config is sent to each server by the reload RPC, whole; ``models.config`` is our record of it.

    It lies where `ConfigFile` has it. The servers' models have to be in it before the first release, those of others
    too: what it leaves out is unloaded.
    """

    kind: Literal["reload"] = "reload"


def _config_kind(value: Any) -> str:
    kind = value.get("kind", "file") if isinstance(value, dict) else getattr(value, "kind", "file")
    return str(kind)


ServerConfig = Annotated[
    Annotated[ConfigFile, Tag("file")] | Annotated[ConfigMap, Tag("configmap")] | Annotated[Reload, Tag("reload")],
    Discriminator(_config_kind),
]


def _host_port(value: str, example: str) -> str:
    found = _HOST_PORT.match(value)
    if found is None:
        # A scheme's rest may hold a password.
        shown = f"{value.partition('://')[0]}://…" if "://" in value else value
        raise ValueError(f"{shown!r} is no host:port; write it like {example}")
    if not 0 < int(found[2]) < 65536:
        raise ValueError(f"{value!r} has no such port; choose one from 1 to 65535")
    return value


def _replica(value: str) -> str:
    _host_port(value.removeprefix("dns:"), "'models-0:8500', or 'dns:models:8500'")
    return value


def _server(value: str) -> str:
    return _host_port(value, "'models:8500'")


# In this order: of an address that holds a password, nothing is repeated.
_Server = Annotated[Address, AfterValidator(_server)]


class ServingTarget(Frozen):
    """The model servers that releases go to.

    Attributes:
        folder: Where versions are published: a folder, or ``s3://bucket/prefix``; None is ``<base>/serving``.
        seen_as: The same versions as the servers see them, where that is another path. For S3, the folder that
            ``airflow-ml sync-models`` fills.
        config: How the servers are told what to load.
        grpc: ``host:port`` that requests go to.
        rest: ``host:port`` that requests go to.
        replicas: ``host:port`` of the gRPC of every server: a version is there when all of them have it.
            ``dns:host:port`` stands for all addresses of a name, as a headless Service has them. None given is the one
            of `grpc`.
        conn_id: Airflow connection of type `tf_serving`; its certificates and token go with every call to a replica.
    """

    # A refused address may hold a password: messages do not repeat what was given.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    folder: FolderOrBucket | None = None
    seen_as: Folder | None = None
    config: ServerConfig = Field(default_factory=ConfigFile)
    grpc: _Server = "127.0.0.1:8500"
    rest: _Server = "127.0.0.1:8501"
    replicas: tuple[Annotated[str, AfterValidator(_replica)], ...] = ()
    conn_id: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        twice = sorted({each for each in self.replicas if self.replicas.count(each) > 1})
        if twice:
            raise ValueError(f"replicas: {', '.join(twice)} is there twice; name each server once")
        if self.folder is not None and self.folder.startswith("s3://") and self.seen_as is None:
            raise ValueError(
                "seen_as: the versions lie in S3, which stock servers do not read; give the folder that "
                "`airflow-ml sync-models` fills for them, as in seen_as='/models'"
            )
        return self
