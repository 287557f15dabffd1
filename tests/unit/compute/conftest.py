"""A stage that does what its request says, and a look at what is left of it."""

import os
import uuid
from pathlib import Path

import pytest

from airflow_ml import Platform
from airflow_ml.lifecycle.requests import JobRequest
from tests.support.models import small_model

FAKE = Path(__file__).with_name("fake_stages.py")


@pytest.fixture
def fake_python(tmp_path):
    """An interpreter that runs the fake instead of ``-m airflow_ml.stages``."""
    import sys

    path = tmp_path / "fakepython"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$3" "$4"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def request_of(tmp_path):
    """A request whose params say what the fake does."""

    def make(**params):
        return JobRequest(
            stage="train", model=small_model(), platform=Platform(base=str(tmp_path / "base")), params=params
        )

    return make


@pytest.fixture
def tag():
    """A word in the command line of every process of a test's family."""
    return f"tag{uuid.uuid4().hex}"


def alive(tag: str) -> list[int]:
    """Pids whose command line holds the tag."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if tag.encode() in words:
                found.append(int(entry.name))
    return found
