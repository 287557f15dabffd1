"""The servers that a platform declares."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_ml.lifecycle.errors import ServingError, SpecError
from airflow_ml.serving.connections import handed, way_to
from airflow_ml.serving.targets.reloading import Reloading
from airflow_ml.serving.targets.replicas import Replicas
from airflow_ml.serving.targets.servers import ModelServers
from airflow_ml.serving.targets.shelves import FolderShelf, Shelf
from airflow_ml.serving.targets.stores import ConfigStore, FileStore
from airflow_ml.serving.targets.writer import Writer
from airflow_ml.spec import ConfigMap, Platform, Reload, ServingTarget


def open_servers(platform: Platform, environ: Mapping[str, str] = os.environ) -> ModelServers:
    """What releases of a platform go to; close it after use. Nothing is asked yet.

    Args:
        platform: Declares them.
        environ: Holds the connections that the platform names (`airflow_ml.serving.connections`).

    Raises:
        SpecError: A connection is missing, or leads nowhere.
        ServingError: Certificates cannot be used, or a name has no address.
    """
    target = platform.serving
    writer = Writer(_store(platform, environ))
    replicas = _replicas(target, environ)
    reloading = Reloading(replicas, writer.store.where) if isinstance(target.config, Reload) else None
    return ModelServers(_shelf(platform), writer, replicas, reloading)


def _shelf(platform: Platform) -> Shelf:
    folder, seen_as = platform.serving_folder, platform.serving.seen_as
    if folder.startswith("s3://"):
        from airflow_ml.serving.targets.buckets import S3Shelf

        return S3Shelf(folder, seen_as or "")
    return FolderShelf(Path(folder), seen_as)


def _store(platform: Platform, environ: Mapping[str, str]) -> ConfigStore:
    config = platform.serving.config
    if isinstance(config, ConfigMap):
        from airflow_ml.compute.kubernetes.api import ClientApi
        from airflow_ml.serving.targets.configmaps import ConfigMapStore

        return ConfigMapStore(config, ClientApi(lambda: _cluster(config.conn_id, environ)))
    return FileStore(Path(platform.config_folder))


def _replicas(target: ServingTarget, environ: Mapping[str, str]) -> Replicas:
    scheme, security = way_to(target, environ)

    def find() -> list[str]:
        found = [address for each in target.replicas or (target.grpc,) for address in _addresses(each)]
        return [f"{scheme}://{address}" for address in dict.fromkeys(found)]

    return Replicas(find, security)


def _addresses(replica: str) -> list[str]:
    """``host:port`` of each server that an entry stands for."""
    if not replica.startswith("dns:"):
        return [replica]
    host, _, port = replica.removeprefix("dns:").rpartition(":")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise ServingError(
            f"the name has no address: {error.strerror or error}",
            f"replicas {replica}",
            "is it the headless Service of the servers, and does this machine resolve the cluster's names?",
        ) from error
    hosts = sorted({str(each[4][0]) for each in found})
    return [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in hosts]


def _cluster(conn_id: str, environ: Mapping[str, str]) -> Any:
    """A client of the `kubernetes` package: as the connection says, or as ``kubectl`` would find the cluster."""
    import json

    from kubernetes import client, config

    connection = handed(conn_id, environ)
    extra = {} if connection is None else _plain(connection.extra)
    try:
        if extra.get("in_cluster"):
            loaded = client.Configuration()
            config.load_incluster_config(client_configuration=loaded)
            return client.ApiClient(loaded)
        if extra.get("kube_config"):
            given = extra["kube_config"]
            return config.new_client_from_config_dict(
                json.loads(given) if isinstance(given, str) else given, context=extra.get("cluster_context") or None
            )
        path = extra.get("kube_config_path") or None
        if path is None and "KUBERNETES_SERVICE_HOST" in environ and not environ.get("KUBECONFIG"):
            loaded = client.Configuration()
            config.load_incluster_config(client_configuration=loaded)
            return client.ApiClient(loaded)
        return config.new_client_from_config(path, context=extra.get("cluster_context") or None)
    except (config.ConfigException, ValueError) as error:
        raise SpecError(
            f"it leads to no cluster: {error}",
            where=f"connection {conn_id}",
            remedy="set one of in_cluster, kube_config_path and kube_config in its extras, or KUBECONFIG",
        ) from error


def _plain(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Extras as the provider reads them: with or without the prefix that old forms gave them."""
    return {name.removeprefix("extra__kubernetes__"): value for name, value in extra.items() if value not in (None, "")}
