"""A real stage on a disk that is full or read-only: one clear error, and a retry that ends well."""

import gzip
from pathlib import Path

import pytest

from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.errors import BaseError
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Platform
from airflow_ml.stages.runner import execute
from tests.support.models import small_model
from tests.support.mounts import error_of, full, read_only

DAY = Window.of("2013-01-01")


@pytest.fixture
def request_(tmp_path) -> JobRequest:
    """To ingest a day that has landed."""
    landing = tmp_path / "base/landing/raw"
    landing.mkdir(parents=True)
    lines = "\n".join(f"id{number},{number}.5" for number in range(2000))
    (landing / "2013-01-01.csv.gz").write_bytes(gzip.compress(f"id,x\n{lines}\n".encode()))
    return JobRequest(stage="ingest", model=small_model(), platform=Platform(base=str(tmp_path / "base")), window=DAY)


@pytest.mark.parametrize("folder", ["lake", "runs"])
def test_a_full_disk_gives_one_clear_error_and_the_retry_ends_well(tmp_path, request_, folder):
    """Full before the commit, and full between the commit and the result."""
    base = tmp_path / "base"
    (base / folder).mkdir()
    error = error_of(request_, full(base / folder))
    assert isinstance(error, BaseError)
    assert error.what == "cannot write: No space left on device"
    assert error.where.startswith(str(base / folder))
    assert error.remedy.startswith("free space")
    assert "nothing was committed" not in error.remedy
    table = LakeTable(base / "lake/small/raw")
    assert (table.missing(DAY) == []) == (folder == "runs")
    assert execute(request_).rows == 2000
    assert table.snapshot().version == 1


def test_a_read_only_base_gives_one_clear_error(tmp_path, request_):
    base: Path = tmp_path / "base"
    error = error_of(request_, read_only(base))
    assert isinstance(error, BaseError)
    assert error.what == "cannot write: Read-only file system"
    assert error.where.startswith(str(base))
    assert "mount it writable" in error.remedy
    assert execute(request_).rows == 2000
