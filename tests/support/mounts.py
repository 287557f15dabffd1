"""Running a stage where a folder lies on a file system of its own: full, or read-only.

A mount namespace holds the mounts, so they end with the process and nobody else sees them.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from airflow_ml.lifecycle.errors import AirflowMLError
from airflow_ml.lifecycle.requests import JobRequest

_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec")


def full(folder: Path) -> str:
    """Shell: the folder lies on a file system without a free byte."""
    return f"mount -t tmpfs -o size=64k tmpfs '{folder}'; head -c 1000000 /dev/zero > '{folder}/ballast' || true"


def read_only(folder: Path) -> str:
    """Shell: the folder with all that is in it cannot be written."""
    return f"mount --bind '{folder}' '{folder}'; mount -o remount,bind,ro '{folder}'"


def error_of(request: JobRequest, mounts: str) -> AirflowMLError:
    """What a stage says that runs, as a job does, after the mounts; skips the test where nobody may mount."""
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(
            [*_NAMESPACE, f"mount -t tmpfs tmpfs '{folder}'"], capture_output=True, text=True, check=False
        )
        if tried.returncode != 0:
            pytest.skip(f"mounting is not permitted here: {tried.stderr.strip()}")
        asked, answer = Path(folder) / "request.json", Path(folder) / "response.json"
        asked.write_text(request.model_dump_json())
        stage = [sys.executable, "-m", "airflow_ml.stages", str(asked), str(answer)]
        done = subprocess.run(
            [*_NAMESPACE, f'{mounts}; exec "$@"', "sh", *stage], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1, done.stdout + done.stderr
        return AirflowMLError.from_dict(json.loads(answer.read_text()))
