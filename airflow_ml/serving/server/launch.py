"""How to start a model server on this machine: Google's binary if it is there, else ours."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

BINARY = "tensorflow_model_server"


def is_real() -> bool:
    """Whether Google's binary is on PATH."""
    return shutil.which(BINARY) is not None


def command(argv: Sequence[str]) -> list[str]:
    """The command line of a model server with the flags ``argv``.

    The real binary listens on all addresses and knows no ``--host``, which is therefore left out for it.
    """
    if not is_real():
        return [sys.executable, "-m", "airflow_ml.serving.server", *argv]
    return [BINARY, *(flag for flag in argv if not flag.startswith("--host="))]


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
