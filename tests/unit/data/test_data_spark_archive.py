"""Spark's classes come from this environment's archive, and one that does not fit harms nobody."""

import subprocess
import sys

import pytest

from airflow_ml.stages.spark import class_archive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STARTS = """
import sys
from airflow_ml.stages.spark import spark_session
with spark_session("t", *sys.argv[1:]):
    print("started")
"""


def session(*java):
    """Start one in a process of its own; its exit code and its output."""
    done = subprocess.run([sys.executable, "-c", STARTS, *java], capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout + done.stderr


def test_the_archive_of_this_environment_fits_its_spark():
    if not class_archive().exists():
        pytest.skip("no archive of classes: python -m airflow_ml.stages.spark_archive")
    code, output = session(f"-XX:SharedArchiveFile={class_archive()}", "-Xshare:on")
    assert (code, "started" in output) == (0, True), output


def test_one_that_does_not_fit_is_passed_over_without_a_word(tmp_path):
    (tmp_path / "odd.jsa").write_bytes(b"no archive")
    code, output = session(f"-XX:SharedArchiveFile={tmp_path / 'odd.jsa'}")
    assert (code, "started" in output) == (0, True), output
    assert "odd.jsa" not in output
