"""``python -m airflow_ml.examples.flights.demo.pages BASE PORT``: MLflow's own pages over the registry of a base."""

import os
import sys
from pathlib import Path

from airflow_ml.registry.client import client_of
from airflow_ml.spec import Platform

# Neither jobs nor telemetry: the pages are looked at beside a training, on the same cores.
_SETTINGS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def command(base: Path, port: int) -> list[str]:
    """What starts the pages on loopback."""
    return [sys.executable, "-m", __name__, str(base), str(port)]


def serve(base: str, port: str) -> None:
    """Become MLflow's server."""
    platform = Platform(base=base)
    # Makes the tables under the registry's lock; the server and the first training would collide over them.
    client_of(platform)
    os.environ |= _SETTINGS
    where = ["--backend-store-uri", platform.registry_uri, "--default-artifact-root", f"{base}/registry/artifacts"]
    address = ["--host", "127.0.0.1", "--port", port, "--workers", "1", "--no-serve-artifacts"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *where, *address])


if __name__ == "__main__":
    serve(*sys.argv[1:])
