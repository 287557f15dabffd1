"""The small files beside the model config: monitoring and TLS. Their messages are not in ``tensorflow-serving-api``.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/config/monitoring_config.proto
Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/config/ssl_config.proto
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_ml.serving.server.flags import Flags
from airflow_ml.serving.server.status import Code, StatusError, invalid

#: Where metrics are when the config does not say.
METRICS_PATH = "/monitoring/prometheus/metrics"

_STRING, _BOOL, _MESSAGE = 9, 8, 11
_FIELDS: dict[str, tuple[tuple[str, int, int], ...]] = {
    "PrometheusConfig": (("enable", 1, _BOOL), ("path", 2, _STRING)),
    "MonitoringConfig": (("prometheus_config", 1, _MESSAGE),),
    "SSLConfig": (
        ("server_key", 1, _STRING),
        ("server_cert", 2, _STRING),
        ("custom_ca", 3, _STRING),
        ("client_verify", 4, _BOOL),
    ),
}


@dataclass(frozen=True)
class Tls:
    """The server's certificate, and whether clients need one.

    Attributes:
        key: PEM text.
        certificate: PEM text.
        ca: PEM text of the authorities that clients' certificates come from; empty for none.
        client_verify: Refuse clients without a certificate.
    """

    key: str
    certificate: str
    ca: str
    client_verify: bool


def metrics_path(config_file: str) -> str:
    """The path under which metrics are shown; empty for nowhere.

    Args:
        config_file: Of a ``MonitoringConfig``; empty for none.

    Raises:
        StatusError: the file is missing or not one.
    """
    if not config_file:
        return ""
    prometheus = _read(config_file, "MonitoringConfig").prometheus_config
    return (prometheus.path or METRICS_PATH) if prometheus.enable else ""


def tls(config_file: str) -> Tls | None:
    """What an ``SSLConfig`` says; ``None`` without a file.

    Raises:
        StatusError: the file is missing or not one.
    """
    if not config_file:
        return None
    config = _read(config_file, "SSLConfig")
    return Tls(config.server_key, config.server_cert, config.custom_ca, config.client_verify)


def check_batching(flags: Flags) -> None:
    """Refuse batching parameters that nobody would use, as TF Serving does. What they say is not heeded here.

    Raises:
        StatusError: batching is not enabled, or the file cannot be read.
    """
    if not flags.batching_parameters_file:
        return
    if not flags.enable_batching:
        raise invalid(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    read_text(flags.batching_parameters_file)


def read_text(path: str) -> str:
    """A config file.

    Raises:
        StatusError: it cannot be read.
    """
    try:
        return Path(path).read_text()
    except OSError as error:
        raise StatusError(Code.NOT_FOUND, f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise invalid(f"Invalid protobuf file: '{path}'") from error


def _read(path: str, name: str) -> Any:
    from google.protobuf import text_format

    try:
        return text_format.Parse(read_text(path), _messages()[name]())
    except text_format.ParseError as error:
        raise StatusError(
            Code.INVALID_ARGUMENT, f"Invalid protobuf file: '{path}': Error parsing text-format {name}: {error}"
        ) from error


def _messages() -> dict[str, Any]:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass

    file = FileDescriptorProto(name="server_options.proto", package="tensorflow.serving", syntax="proto3")
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind in fields:
            field = described.field.add(name=name, number=number, type=kind, label=1)
            if kind == _MESSAGE:
                field.type_name = ".tensorflow.serving.PrometheusConfig"
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}")) for name in _FIELDS}
