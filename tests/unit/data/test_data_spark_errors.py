"""What goes wrong inside Spark is one clear error: what, where and the remedy, and nothing committed."""

import resource
import shutil
import subprocess
import tempfile
from contextlib import contextmanager

import pytest
from pyspark import SparkContext

from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.errors import AirflowMLError, BaseError, StageError
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Platform
from airflow_ml.stages.spark import spark_session
from tests.support.killing import run_in_process
from tests.unit.data.conftest import INPUTS, Base, built_by

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DAY = "2013-01-02"


@pytest.fixture
def base(ingested, spark, tmp_path):
    """Two weeks, and features that are built in no time."""
    made = ingested.copy(tmp_path / "base", *INPUTS)
    made.model = built_by("sound")
    return made


def refusal(base: Base, kind: type[AirflowMLError]) -> AirflowMLError:
    """The error of building features: short, with a remedy, and with nothing left behind."""
    with pytest.raises(kind) as refused:
        base.run("features", DAY)
    assert type(refused.value) is kind
    assert refused.value.remedy
    assert len(str(refused.value)) < 600
    assert "\n" not in str(refused.value)
    assert not base.table("features").exists()
    assert not list(base.table("features").path.glob("staged-*"))
    return refused.value


@contextmanager
def largest_file(spark, size: int):
    """Have the kernel refuse writes of the JVM as a full disk would, for everybody, root included."""
    jvm = spark._jvm.java.lang.ProcessHandle.current().pid()
    before = resource.prlimit(jvm, resource.RLIMIT_FSIZE)
    resource.prlimit(jvm, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(jvm, resource.RLIMIT_FSIZE, before)


def test_a_full_disk_below_the_table(ingested, spark, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        base = ingested.copy(disk, *INPUTS)
        base.run("validate", DAY)
        (disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(disk).free - 32_768))
        error = refusal(base, BaseError)
        assert error.what == "cannot write: No space left on device"
        assert error.where.startswith(str(base.table("features").path))
        assert error.remedy == "free space on this file system, then retry: what is committed stays"
        (disk / "ballast").unlink()
        assert base.run("features", DAY).rows == 943
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_table_below_which_no_folder_can_be_made(base, monkeypatch):
    """As on a file system that is read-only: root ignores permission bits, but not a file where a folder must be."""
    attempt = LakeTable.attempt

    def blocked(self):
        made = attempt(self)
        if self.name == "features":
            made.folder.rmdir()
            made.folder.symlink_to("/dev/null")
        return made

    monkeypatch.setattr(LakeTable, "attempt", blocked)
    with pytest.raises(BaseError, match="cannot write: Parent path is not a directory") as refused:
        base.run("features", DAY)
    assert refused.value.where.startswith(str(base.table("features").path))
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("that_fails_in_a_task", "[INVALID_PARAMETER_VALUE.PATTERN] The value of parameter(s) `regexp`"),
        ("that_fails_in_java", 'For input string: "many"'),
    ],
)
def test_any_other_failure_is_a_sentence_and_the_trace_is_in_the_log(base, caplog, function, says):
    base.model = built_by(function)
    error = refusal(base, StageError)
    assert error.what.startswith(f"Spark failed: {says}")
    assert error.where == f"entry point tests.unit.data.builds:{function}"
    assert says in caplog.text


def give_up(context: SparkContext | None) -> None:
    """Have Spark give its context up, of which Python's side is not told."""
    if context is not None and context._jsc is not None:
        context._jsc.sc().stop()


def test_a_full_scratch_folder_of_spark(base, spark, monkeypatch):
    monkeypatch.delenv("SPARK_LOCAL_DIRS", raising=False)
    base.run("features", "2013-01-01")
    base = base.copy(base.path.with_name("again"), *INPUTS)
    with largest_file(spark, 1000):
        error = refusal(base, BaseError)
    assert error.what == "cannot write: File too large"
    assert error.where == tempfile.gettempdir()
    assert error.remedy.endswith("choose another scratch folder of Spark's by SPARK_LOCAL_DIRS")
    # Spark goes on when there is space again, or gives its context up: before the next run, or in the midst of it.
    try:
        rows = base.run("features", DAY).rows
    except StageError as told:
        if "SparkContext" not in told.what:
            raise
        rows = base.run("features", DAY).rows
    assert rows == 943
    give_up(SparkContext._active_spark_context)  # or it may do so in another test


def test_a_context_that_spark_gave_up_is_started_anew(base):
    with spark_session("tests") as session:
        give_up(session.sparkContext)
        assert base.run("features", DAY).rows == 943
        assert base.run("features", "2013-01-03").rows == 914


def test_a_jvm_that_was_killed_is_told(ingested, tmp_path):
    """In a process of its own: the session of the other tests lives on."""
    base = ingested.copy(tmp_path / "base", *INPUTS)
    platform, window = Platform(base=str(base.path)), Window.of(DAY)
    code, error, output = run_in_process(
        JobRequest(stage="features", model=built_by("that_kills_spark"), platform=platform, window=window)
    )
    assert code == 1
    assert error is None
    assert "StageError: entry point tests.unit.data.builds:that_kills_spark: Spark's process ended while it" in output
    assert "Remedy: was it out of memory or killed?" in output
