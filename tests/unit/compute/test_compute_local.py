"""Local jobs: what they say, what they are given, and that nothing outlives them however they end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_ml.compute import Handle, LocalProcess, Phase, wait
from airflow_ml.compute.local import job_environment
from airflow_ml.lifecycle.errors import BadFile, BaseError, JobFailed
from airflow_ml.spec import LocalCompute
from tests.unit.compute.conftest import alive

GRACE_S = 0.5


@pytest.fixture
def compute(fake_python):
    return LocalProcess(LocalCompute(python=fake_python, grace_s=GRACE_S))


def test_a_job_returns_its_result_and_its_lines_as_they_come(compute, request_of):
    lines = []
    handle = compute.submit(request_of(do="succeed", lines=["one", "two"]), {})
    result = wait(compute, handle, lines.append)
    assert result.rows == 7
    assert lines == ["INFO doing succeed", "one", "two"]
    assert Handle.model_validate_json(handle.model_dump_json()) == handle


def test_a_job_that_fails_says_why(compute, request_of):
    handle = compute.submit(request_of(do="fail", error="BadFile"), {})
    with pytest.raises(BadFile, match="row 3: no good"):
        wait(compute, handle, print)


def test_a_job_that_dies_without_a_word_has_failed(compute, request_of):
    handle = compute.submit(request_of(do="exit", code=3), {})
    with pytest.raises(JobFailed, match="exit code 3"):
        wait(compute, handle, print)


def test_an_interpreter_that_is_not_there_is_named(request_of):
    compute = LocalProcess(LocalCompute(python="/nowhere/python"))
    lines = []
    with pytest.raises(JobFailed, match="exit code 127"):
        wait(compute, compute.submit(request_of(do="succeed"), {}), lines.append)
    assert lines == ["cannot run /nowhere/python: No such file or directory"]


def test_a_base_that_cannot_be_written_is_one_clear_error(compute, request_of, tmp_path):
    (tmp_path / "base").write_text("a file where the base should be")
    with pytest.raises(BaseError, match="cannot write"):
        compute.submit(request_of(do="succeed"), {})


def test_secrets_are_in_the_environment_and_nowhere_on_disk(compute, request_of, tmp_path):
    handle = compute.submit(request_of(do="succeed", show=["TOKEN"]), {"TOKEN": "s3cret"})
    assert wait(compute, handle, print).summary["environment"] == {"TOKEN": "s3cret"}
    # The fake shows it in its response on purpose; nothing that we wrote may hold it.
    ours = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "response.json"]
    assert ours
    assert not [path for path in ours if b"s3cret" in path.read_bytes()]


def test_settings_of_airflow_do_not_reach_a_job():
    environ = {"AIRFLOW__CORE__FERNET_KEY": "k", "AIRFLOW_CONN_X": "c", "AIRFLOW_ML_BASE": "/b", "HOME": "/h"}
    job = job_environment(environ, {"TOKEN": "t"})
    assert not {"AIRFLOW__CORE__FERNET_KEY", "AIRFLOW_CONN_X"} & job.keys()
    assert (job["AIRFLOW_ML_BASE"], job["HOME"], job["TOKEN"]) == ("/b", "/h", "t")


def test_import_paths_of_this_process_are_those_of_the_job(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    paths = job_environment({}, {})["PYTHONPATH"].split(os.pathsep)
    assert str(tmp_path) in paths
    assert str(Path(__file__).parents[3]) in paths
    assert not [path for path in paths if path.startswith(sys.prefix)]


def _family(compute, request_of, tag, tmp_path, **more):
    ready = tmp_path / "ready"
    handle = compute.submit(request_of(do="family", tag=tag, ready=str(ready), **more), {})
    _until(ready.exists)
    return handle


def _until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_cancel_ends_children_that_ignore_term_and_have_their_own_session(compute, request_of, tag, tmp_path):
    handle = _family(compute, request_of, tag, tmp_path)
    assert len(alive(tag)) == 3
    compute.cancel(handle)
    assert alive(tag) == []
    assert compute.poll(handle).phase is Phase.ENDED


def test_what_a_job_leaves_behind_when_it_is_done_is_ended(compute, request_of, tag, tmp_path):
    handle = _family(compute, request_of, tag, tmp_path, then="succeed")
    assert wait(compute, handle, print).rows == 7
    assert alive(tag) == []


def test_an_exception_in_the_waiting_task_ends_the_job(compute, request_of, tag, tmp_path):
    """As `execution_timeout` does: it raises from a signal handler."""
    handle = _family(compute, request_of, tag, tmp_path)

    def alarm(*_):
        raise TimeoutError

    old = signal.signal(signal.SIGALRM, alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(TimeoutError):
            wait(compute, handle, print)
    finally:
        signal.signal(signal.SIGALRM, old)
    assert alive(tag) == []


RUNNER = """
import sys
from airflow_ml.compute import LocalProcess, wait
from airflow_ml.compute.local import die_with_parent
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.spec import LocalCompute
request, python = sys.argv[1:3]
if "supervised" in sys.argv:
    die_with_parent()
compute = LocalProcess(LocalCompute(python=python, grace_s=0.5))
wait(compute, compute.submit(JobRequest.model_validate_json(request), {}), lambda line: None)
"""

SUPERVISOR = """
import subprocess, sys, time
runner = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
print(runner.pid, flush=True)
time.sleep(600)
"""


def _request_text(request_of, tag, ready):
    return request_of(do="family", tag=tag, ready=str(ready)).model_dump_json()


def test_kill_9_of_the_task_ends_its_job(fake_python, request_of, tag, tmp_path):
    ready = tmp_path / "ready"
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, _request_text(request_of, tag, ready), fake_python])
    _until(ready.exists)
    runner.kill()
    runner.wait()
    _until(lambda: not alive(tag), GRACE_S + 5)


def test_kill_9_of_the_supervisor_ends_the_task_and_its_job(fake_python, request_of, tag, tmp_path):
    ready = tmp_path / "ready"
    request = _request_text(request_of, tag, ready)
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, RUNNER, request, fake_python, "supervised"],
        stdout=subprocess.PIPE,
        text=True,
    )
    runner = int(supervisor.stdout.readline())
    _until(ready.exists)
    supervisor.kill()
    supervisor.wait()
    _until(lambda: not alive(tag), GRACE_S + 5)
    assert not Path(f"/proc/{runner}").exists() or "Z" in Path(f"/proc/{runner}/stat").read_text()


@pytest.mark.parametrize("killed", ["guard", "reaper"])
def test_kill_9_of_the_reaper_or_its_guard_ends_everything(compute, request_of, tag, tmp_path, killed):
    handle = _family(compute, request_of, tag, tmp_path)
    family = {*alive(tag), *_descendants(handle.pid)}
    (reaper,) = _children(handle.pid)
    assert len(family) == 5, "three children, the stage and the reaper"
    os.kill(handle.pid if killed == "guard" else reaper, signal.SIGKILL)
    with pytest.raises(JobFailed, match="signal 9"):
        wait(compute, handle, print)
    _until(lambda: not alive(tag), GRACE_S + 5)
    _until(lambda: not [pid for pid in family if _lives(pid)], GRACE_S + 5)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _descendants(pid: int) -> set[int]:
    children = _children(pid)
    return {*children, *(found for child in children for found in _descendants(child))}


def _lives(pid: int) -> bool:
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_job_of_a_task_that_is_gone_is_over(compute, request_of, fake_python):
    handle = compute.submit(request_of(do="succeed"), {})
    wait(compute, handle, print)
    elsewhere = LocalProcess(LocalCompute(python=fake_python)).poll(handle)
    assert elsewhere.phase is Phase.ENDED
    assert elsewhere.response.rows == 7
    request = json.loads((Path(handle.folder) / "request.json").read_text())
    assert request["stage"] == "train"
