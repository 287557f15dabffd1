"""What `airflow-ml status` and `airflow-ml serve` say of a base: what is in it, or why it cannot be used."""

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from airflow_ml import Platform
from airflow_ml.cli import app
from airflow_ml.lifecycle.requests import JobResult
from airflow_ml.lifecycle.windows import Window
from airflow_ml.registry import champions
from airflow_ml.status import model_status, render
from tests.support.models import small_model
from tests.support.released import record

JUDGED, TRAINING = Window.of("2013-12-07", "2013-12-13"), Window.of("2013-06-17", "2013-12-13")


def _decided(base: Path, training: Window | None) -> None:
    folder = base / "runs/small/decide/abc"
    folder.mkdir(parents=True)
    result = JobResult(
        stage="decide",
        model="small",
        fingerprint="abc",
        spec_hash="s",
        code_version="c",
        window=JUDGED,
        identity={},
        outputs={},
        metrics={},
        summary={"decision": "retrain", "window": training.model_dump(mode="json") if training else None},
        wall_s=0.1,
        rows=1,
        uri=str(folder / "result.json"),
    )
    (folder / "result.json").write_text(result.model_dump_json())


@pytest.mark.parametrize("training", [TRAINING, None])
def test_a_decision_is_shown_with_the_window_that_it_judged(tmp_path, training):
    _decided(tmp_path, training)
    found = model_status(small_model(), Platform(base=str(tmp_path)))
    decided = found["verdicts"]["decide"]
    assert decided["window"] == {"from": "2013-12-07", "to": "2013-12-13"}
    assert decided["training_window"] == (training and {"from": "2013-06-17", "to": "2013-12-13"})
    assert "  decide     2013-12-07 .. 2013-12-13  " in render(found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the result is damaged: JSONDecodeError; remove the file; the stage then runs again"),
        ('{"format": 1}', "the result is damaged: "),
        ('{"format": 99}', "result of format 99; this package knows 1; upgrade airflow-ml"),
    ],
)
def test_a_result_that_cannot_be_read_is_told_beside_the_others(tmp_path, text, says):
    _decided(tmp_path, TRAINING)
    damaged = tmp_path / "runs/small/gates/abc/result.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text(text)
    found = model_status(small_model(), Platform(base=str(tmp_path)))
    assert found["verdicts"]["gates"]["result"] == str(damaged)
    assert says in found["verdicts"]["gates"]["problem"]
    assert found["verdicts"]["decide"]["decision"] == "retrain"
    assert says in render(found)


@pytest.mark.parametrize("command", [["status", "flights"], ["serve"], ["gateway", "flights"]])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda base: base.write_text("a file"), "not a folder"),
        (lambda base: _marker(base, {"format": 99, "written_by": "9.9"}), "written by airflow-ml 9.9 in format 99"),
        (lambda base: _marker(base, "{"), "not a marker of ours"),
    ],
)
def test_a_base_that_cannot_be_used_is_refused_in_one_sentence(tmp_path, monkeypatch, command, make, says):
    base = tmp_path / "base"
    make(base)
    before = sorted(tmp_path.rglob("*"))
    done = _call(monkeypatch, base, command)
    assert done.exit_code == 1
    assert done.output.startswith("BaseError: ")
    assert says in done.output
    assert "remedy: " in done.output
    assert isinstance(done.exception, SystemExit), "an error for people, not a traceback"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_serving_folder_that_cannot_be_written_is_refused_in_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("AIRFLOW_ML_SERVING_FOLDER", str(tmp_path / "taken"))
    done = _call(monkeypatch, tmp_path / "base", ["serve"])
    assert done.exit_code == 1
    assert done.output.startswith("BaseError: cannot write: ")
    assert str(tmp_path / "taken") in done.output


def test_a_gateway_whose_port_is_taken_says_so(tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = _call(monkeypatch, tmp_path / "base", ["gateway", "flights", f"--port={port}"])
        assert done.exit_code == 1
        assert f"where:  127.0.0.1:{port}" in done.output


def test_the_status_of_a_base_that_is_not_there_makes_none(tmp_path, monkeypatch):
    done = _call(monkeypatch, tmp_path / "base", ["status", "flights"])
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "base").exists()


def _marker(base: Path, content: object) -> None:
    base.mkdir()
    (base / "airflow_ml.json").write_text(content if isinstance(content, str) else json.dumps(content))


def _call(monkeypatch, base: Path, command: list[str]):
    monkeypatch.setenv("AIRFLOW_ML_BASE", str(base))
    # a server that were started would take this process's place
    monkeypatch.setattr("os.execvp", lambda *_: pytest.fail("the server was started"))
    return CliRunner().invoke(app, command)


def test_what_the_training_of_a_version_took_is_shown(tmp_path):
    platform = Platform(base=str(tmp_path))
    old = record(platform, "small", 1)
    usage = {"gpu_hours": 1.5, "cpu_hours": 6.25, "cost": 4.0, "currency": "USD"}
    champions.record(platform, old.model_copy(update={"version": 2, "usage": usage}))
    found = model_status(small_model(), platform)
    assert found["usage"] == {"2": usage}
    assert "  version 2: 1.5 GPU-hours, 6.25 CPU-hours, 4 USD" in render(found)
