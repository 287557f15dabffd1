"""One model server for the tests that only ask it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from airflow_ml.serving.client import Client, connect
from airflow_ml.serving.deployment import ModelConfigFile, publish
from airflow_ml.serving.sandbox import RunningServer, model_server
from tests.support.saved_models import half_plus_two, kinds, slow
from tests.unit.serving.exported import exported, other

__all__ = ["exported", "other"]

WAIT = 90

#: The longest message that the server takes, in bytes.
LIMIT = 1_000_000


@dataclass(frozen=True)
class Asked:
    """A running server.

    Its models: ``m`` (version 3, label ``stable``), ``half`` (123, label ``stable``), ``slow`` (1) and ``kinds`` (1).
    """

    running: RunningServer
    socket: str

    @property
    def grpc(self) -> str:
        return self.running.grpc

    @property
    def rest(self) -> str:
        return self.running.rest

    def connect(self, protocol: str = "grpc") -> Client:
        return connect(self.grpc if protocol == "grpc" else self.rest)


@pytest.fixture(scope="package")
def server(exported, tmp_path_factory):
    """Started once a session; nobody changes it."""
    folder: Path = tmp_path_factory.mktemp("served")
    base = folder / "serving"
    config = ModelConfigFile(base)
    made = {
        "m": (exported.path, 3),
        "half": (half_plus_two(folder / "half"), 123),
        "slow": (slow(folder / "slow"), 1),
        "kinds": (kinds(folder / "kinds"), 1),
    }
    for model, (path, version) in made.items():
        publish(path, base, model, version)
        config.ensure_versions(model, [version])
        if model in ("m", "half"):
            config.set_label(model, "stable", version)
    monitoring = folder / "monitoring.config"
    monitoring.write_text('prometheus_config { enable: true, path: "/metrics" }')
    socket = f"{folder}/s"
    flags = [
        f"--monitoring_config_file={monitoring}",
        f"--grpc_channel_arguments=grpc.max_receive_message_length={LIMIT}",
        f"--grpc_socket_path={socket}",
        "--rest_api_timeout_in_ms=5000",
    ]
    with model_server(base, timeout=WAIT, flags=flags) as running:
        yield Asked(running, socket)
