"""Requests are removed when nobody needs them, and only then."""

import json
import os
import time
from pathlib import Path

import pytest

from airflow_ml.compute import LocalProcess, wait
from airflow_ml.compute.exchange import KEEP_S, remove_old, requests_folder, write_request
from airflow_ml.spec import LocalCompute

DAY_S = 86_400
LATER_S = KEEP_S + DAY_S


@pytest.fixture
def compute(fake_python):
    return LocalProcess(LocalCompute(python=fake_python, grace_s=0.5))


@pytest.fixture
def left(tmp_path):
    """Ids of the requests that are there."""
    folder = requests_folder(tmp_path / "base", "small")
    return lambda: {path.name for path in folder.iterdir() if path.is_dir()}


def test_a_finished_request_is_removed_when_it_is_old(compute, request_of, left, tmp_path):
    handle = compute.submit(request_of(do="succeed"), {})
    wait(compute, handle, print)
    dead = write_request(request_of())
    now = time.time()
    assert remove_old(tmp_path / "base", "small", now + KEEP_S - DAY_S) == []
    assert left() == {handle.id, dead.name}
    assert set(remove_old(tmp_path / "base", "small", now + LATER_S)) == {handle.id, dead.name}
    assert left() == set()


def test_a_running_one_stays_however_old_it_is(compute, request_of, left, tmp_path, tag):
    ready = tmp_path / "ready"
    handle = compute.submit(request_of(do="family", tag=tag, ready=str(ready)), {})
    while not ready.exists():
        time.sleep(0.02)
    now = time.time()
    assert remove_old(tmp_path / "base", "small", now + LATER_S) == []
    assert left() == {handle.id}
    compute.cancel(handle)
    assert remove_old(tmp_path / "base", "small", now + LATER_S + DAY_S) == [handle.id]


def test_one_through_which_the_link_to_a_report_leads_stays_with_the_report(compute, request_of, left, tmp_path):
    page = tmp_path / "drift.html"
    page.write_text("<p>drift</p>")
    report = {"drift": {"uri": str(page), "sha256": "0"}}
    shown = compute.submit(request_of(do="succeed", reports=report), {})
    wait(compute, shown, print)
    failed = write_request(request_of())
    (failed / "response.json").write_text(json.dumps({"error": "DataBroken", "what": "no", "reports": report}))
    now = time.time()
    assert remove_old(tmp_path / "base", "small", now + LATER_S) == []
    page.unlink()
    assert set(remove_old(tmp_path / "base", "small", now + LATER_S + DAY_S)) == {shown.id, failed.name}
    assert left() == set()


def test_it_is_done_once_a_day_by_whoever_sends_a_request(compute, request_of, left, tmp_path):
    old = write_request(request_of())
    long_ago = time.time() - LATER_S
    os.utime(old, (long_ago, long_ago))
    first = compute.submit(request_of(do="succeed"), {})
    wait(compute, first, print)
    assert left() == {first.id}
    again = write_request(request_of())
    os.utime(again, (long_ago, long_ago))
    second = compute.submit(request_of(do="succeed"), {})
    wait(compute, second, print)
    assert left() == {first.id, again.name, second.id}, "it was done today"


def test_a_folder_that_holds_nothing_of_ours_stays(request_of, left, tmp_path):
    foreign = write_request(request_of())
    (foreign / "response.json").write_text("[]")
    assert remove_old(tmp_path / "base", "small", time.time() + LATER_S) == []
    assert left() == {foreign.name}
    assert Path(foreign / "response.json").exists()
