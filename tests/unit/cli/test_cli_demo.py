"""The demo: one in a folder, and a summary that says where the time went."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from airflow_ml.examples.flights.demo import main
from airflow_ml.examples.flights.demo.main import run_demo
from airflow_ml.examples.flights.demo.summary import (
    StageTime,
    Summary,
    WatchedWeek,
    arms,
    covered,
    find_problems,
    render,
)
from airflow_ml.gateway.load import Traffic

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
    monkeypatch.setattr(main, "_run", lambda leave_running, root, pods: played.append(root) or 0)
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


def test_the_summary_says_what_monitoring_saw_and_what_it_could_not_judge():
    judged = WatchedWeek("2013-12-07..2013-12-13", "retrain", 1, 0.432, 0.39, 0.18, 0.7616, 0.7241)
    unjudged = WatchedWeek("2013-12-14..2013-12-20", "broken_input", None, None, None, None, None, None)
    told = render(Summary(watched=[judged, unjudged])).splitlines()
    lines = [line.split() for line in told if line.startswith("  2013-12")]
    assert lines == [
        ["2013-12-07..2013-12-13", "1", "43%", "39%", "18%", "0.762", "0.724", "retrain"],
        ["2013-12-14..2013-12-20", "-", "-", "-", "-", "-", "-", "broken_input"],
    ]


def _whole() -> Summary:
    """What the summary says when everything in the loop happened."""
    return Summary(
        nights_scored=37,
        auc_by_week={"2013-11-01": 0.71, "2013-11-08": None},
        drift={"verdict": "retrain", "window": "2013-12-07..2013-12-13", "reasons": ["43% of the columns drifted"]},
        retraining={"run_id": "drift__2013-12-13", "outcome": "promoted"},
        online=arms(Traffic(Counter(stable=70, canary=30), Counter({1: 71, 2: 29}), latencies_ms=[5.0]), {}),
        champions=[{"version": 2, "auc": 0.73, "reason": "passed"}],
        online_prediction={"probability": 0.4},
    )


def test_a_loop_in_which_everything_happened_has_no_problem():
    assert find_problems(_whole(), 37) == []
    for outcome in ("rejected", "rolled back"):
        assert find_problems(replace(_whole(), retraining={"outcome": outcome}), 37) == [], "honest refusals"
    assert find_problems(replace(_whole(), online={}), 37) == [], "the retraining was refused: nothing was released"


@pytest.mark.parametrize(
    ("lacking", "problem"),
    [
        ({"nights_scored": 36}, "36 of 37 nights were scored"),
        ({"nights_scored": 38}, "38 of 37 nights were scored"),
        ({"auc_by_week": {}}, "no week could be judged"),
        ({"auc_by_week": {"2013-11-01": None}}, "no week could be judged"),
        ({"drift": {}}, "no drift verdict was reached"),
        ({"drift": {"verdict": "healthy"}}, "no drift verdict was reached"),
        ({"retraining": {}}, "no retraining ended in a promotion or a refusal"),
        ({"retraining": {"outcome": "failed"}}, "no retraining ended in a promotion or a refusal"),
        ({"champions": []}, "there is no champion"),
        ({"online_prediction": {}}, "the online prediction was not answered"),
        ({"online_prediction": {"error": "503"}}, "the online prediction was not answered"),
        ({"online": arms(Traffic(Counter(stable=9)), {})}, "nobody was answered by the canary"),
        (
            {"online": arms(Traffic(Counter(stable=9, canary=1), failed=Counter({"503": 1})), {})},
            "requests failed while a release was on its way: {'503': 1}",
        ),
    ],
)
def test_each_thing_that_did_not_happen_is_a_problem_of_its_own(lacking, problem):
    summary = replace(_whole(), **lacking)
    assert find_problems(summary, 37) == [problem]


def test_what_did_not_happen_is_shown_to_people_and_to_machines(tmp_path):
    summary = replace(_whole(), champions=[], problems=find_problems(replace(_whole(), champions=[]), 37))
    assert "what did not happen:\n  there is no champion" in render(summary)
    summary.write(tmp_path / "summary.json")
    assert json.loads((tmp_path / "summary.json").read_text())["problems"] == ["there is no champion"]


def test_the_summary_shows_the_arms_and_a_request_that_failed_is_a_problem():
    answered = Traffic(
        Counter(stable=70, canary=30), Counter({1: 71, 2: 29}), Counter(canary=1), latencies_ms=[5.0] * 100
    )
    shown = arms(answered, {"state": "kept", "verdict_reason": "all good"})
    assert shown["arms"] == {"canary": 30, "stable": 70}
    assert (shown["requests"], shown["versions"], shown["rollout"]) == (100, {"1": 71, "2": 29}, "kept")
    assert "  arms: {'canary': 30, 'stable': 70}" in render(Summary(online=shown))
    fine = {*find_problems(Summary(online=shown), 0)}
    failed = arms(Traffic(Counter(stable=70), failed=Counter({"503": 1})), {})
    assert {*find_problems(Summary(online=failed), 0)} - fine == {
        "requests failed while a release was on its way: {'503': 1}",
        "nobody was answered by the canary",
    }
