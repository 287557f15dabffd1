"""How to start a model server on this machine: Google's binary if it is there, else ours."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from airflow_ml.lifecycle.errors import ServingError

BINARY = "tensorflow_model_server"


def is_real() -> bool:
    """Whether Google's binary is on PATH."""
    return shutil.which(BINARY) is not None


def command(argv: Sequence[str]) -> list[str]:
    """The command line of a model server with the flags ``argv``.

    Raises:
        ServingError: ``--host`` for the real binary, which has no such flag and listens on all addresses: a server
            that was to be seen by this machine only must not be open to others without a word.
    """
    if not is_real():
        return [sys.executable, "-m", "airflow_ml.serving.server", *argv]
    if any(flag == "--host" or flag.startswith("--host=") for flag in argv):
        raise ServingError(
            f"{BINARY} has no --host: it listens on all addresses",
            where=str(shutil.which(BINARY)),
            remedy="leave --host out and close the ports by a firewall or a container's network, or take the binary "
            "off PATH for the stand-in, which listens on 127.0.0.1",
        )
    return [BINARY, *argv]


def base_flags(base: Path) -> list[str]:
    """The flags with which a server serves a serving base (:mod:`airflow_ml.serving.deployment`).

    It follows config file and folders every second. Labels of versions that are still loading are accepted at the
    start, without which a server with labels in its config cannot start at all. A version that does not load is tried
    once more and then given up, so that a release hears of it in seconds.
    """
    return [
        f"--model_config_file={base.absolute() / 'models.config'}",
        "--model_config_file_poll_wait_seconds=1",
        "--file_system_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models=true",
        "--max_num_load_retries=1",
        "--load_retry_interval_micros=1000000",
    ]
