"""The demo: one in a folder, and a summary that says where the time went."""

import subprocess
import sys

from airflow_ml.examples.flights.demo import main
from airflow_ml.examples.flights.demo.main import run_demo
from airflow_ml.examples.flights.demo.summary import StageTime, Summary, covered, render

HOLD = """
import sys
from pathlib import Path
from airflow_ml.examples.flights.demo.main import _only_one
with _only_one(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_demo_leaves_the_files_of_the_first_alone(tmp_path, capsys, monkeypatch):
    played = []
    monkeypatch.setattr(main, "_run", lambda leave_running, root: played.append(root) or 0)
    root = tmp_path / "build/demo"
    root.mkdir(parents=True)
    (root / "airflow.db").write_text("of the first")
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == "held\n"
        assert run_demo(leave_running=False, root=root) == 1
        said = capsys.readouterr().err
        assert "a demo runs here already. Remedy: end it by Ctrl-C" in said
        assert str(root) in said
        assert (root / "airflow.db").read_text() == "of the first"
        assert played == []
    finally:
        first.kill()
        first.wait()
        first.stdin.close()
        first.stdout.close()
    assert run_demo(leave_running=False, root=root) == 0, "the lock ends with its process, also by kill -9"
    assert played == [root]


def test_the_summary_says_how_long_nothing_ran(tmp_path):
    summary = Summary(
        wall_s=100.0,
        stages=[StageTime("start Airflow", 20.0, 0), StageTime("train", 30.0, 5)],
        busy=[(1000.0, 1030.0), (1010.0, 1025.0), (1020.0, 1040.0), (1060.0, 1070.0)],
    )
    assert covered(summary.busy) == 50.0
    assert summary.idle_s(started_s=20.0) == 30.0
    assert "start Airflow" in render(summary)
    assert "rows overlap" in render(summary)
    summary.write(tmp_path / "summary.json")
    assert "busy" not in (tmp_path / "summary.json").read_text()
