"""Airflow connections as a job gets them: in two environment variables each, one of them secret.

The Airflow side writes them at the last moment (`airflow_ml.hooks`); on a command line one may set them by hand. They
are never part of a request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.serving.calls import DEADLINE
from airflow_ml.serving.security import Security
from airflow_ml.spec.targets import ServingTarget

_PORTS = {"grpc": 8500, "http": 8501}


@dataclass(frozen=True)
class Handed:
    """What a job needs of a connection.

    Attributes:
        conn_id: Its id.
        host: Empty if it has none.
        port: None for the default.
        extra: Its extras.
        password: Not part of its text.
    """

    conn_id: str
    host: str = ""
    port: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    password: str = field(default="", repr=False)

    def to_environment(self) -> dict[str, str]:
        """Environment variables."""
        name = variable(self.conn_id)
        found = {name: json.dumps({"host": self.host, "port": self.port, "extra": dict(self.extra)})}
        return found | ({f"{name}_PASSWORD": self.password} if self.password else {})


def variable(conn_id: str) -> str:
    """Name of the environment variable of a connection."""
    return "AIRFLOW_ML_CONN_" + re.sub(r"\W", "_", conn_id).upper()


def handed(conn_id: str, environ: Mapping[str, str]) -> Handed | None:
    """A connection out of the environment; None if it is not there.

    Raises:
        SpecError: The variable says something else.
    """
    name = variable(conn_id)
    if name not in environ:
        return None
    try:
        data = json.loads(environ[name])
        port = data.get("port")
        return Handed(
            conn_id, str(data.get("host") or ""), None if port is None else int(port), dict(data.get("extra") or {}),
            environ.get(f"{name}_PASSWORD", ""),
        )  # fmt: skip
    except (ValueError, AttributeError, TypeError) as error:
        raise SpecError(
            "the connection in the environment is damaged",
            where=f"variable {name}",
            remedy='write {"host": "models", "port": 8500, "extra": {"tls": true}}',
        ) from error


def security_of(connection: Handed) -> Security:
    """Certificates and token of a connection of type ``tf_serving``.

    Raises:
        ServingError: They do not belong together.
    """
    extra = connection.extra
    return Security(
        ca=extra.get("ca") or "",
        certificate=extra.get("certificate") or "",
        key=extra.get("key") or "",
        token=connection.password,
    )


def protocol_of(connection: Handed) -> str:
    """``grpc`` or ``http``, with an ``s`` for TLS.

    Raises:
        SpecError: It is something else.
    """
    protocol = connection.extra.get("protocol") or "grpc"
    if protocol not in _PORTS:
        raise SpecError(f"protocol {protocol!r} is unknown", f"connection {connection.conn_id}", "choose grpc or http")
    return str(protocol) + ("s" if connection.extra.get("tls") or security_of(connection).tls else "")


def way_to(target: ServingTarget, environ: Mapping[str, str]) -> tuple[str, Security]:
    """How the gRPC servers of a target are reached: ``grpc`` or ``grpcs``, with which certificates and token.

    Raises:
        SpecError: The connection that it names is not there, or is not of gRPC.
        ServingError: Its certificates do not belong together.
    """
    if target.conn_id is None:
        return "grpc", Security()
    where = f"connection {target.conn_id}"
    connection = handed(target.conn_id, environ)
    if connection is None:
        raise SpecError(
            "the connection that the serving target names was not handed to this process",
            where=where,
            remedy=f"tasks get it from Airflow; elsewhere, set the variable {variable(target.conn_id)}, as in "
            '{"extra": {"tls": true, "ca": "/etc/pki/ca.pem"}}, and its token as the same with _PASSWORD',
        )
    scheme = protocol_of(connection)
    if not scheme.startswith("grpc"):
        raise SpecError(
            "it is of protocol http, and model servers are driven over gRPC",
            where=where,
            remedy="name a connection of protocol grpc as the serving target's conn_id",
        )
    return scheme, security_of(connection)


def client_arguments(connection: Handed) -> dict[str, Any]:
    """What `connect` takes, of a connection of type ``tf_serving``.

    Raises:
        SpecError: It has no host, or an extra that means nothing.
        ServingError: Its certificates cannot be used.
    """
    where = f"connection {connection.conn_id}"
    scheme = protocol_of(connection)
    if not connection.host:
        raise SpecError("the connection has no host", where, "give the host of the model server")
    try:
        deadline = float(connection.extra.get("deadline_s") or DEADLINE)
    except (TypeError, ValueError) as error:
        raise SpecError(f"deadline_s: {error}", where, "give seconds, as in 2.5") from error
    return {
        "url": f"{scheme}://{connection.host}:{connection.port or _PORTS[scheme.removesuffix('s')]}",
        "deadline": deadline,
        "security": security_of(connection),
    }
