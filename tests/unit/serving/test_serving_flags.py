"""TF Serving's command line, both spellings."""

from dataclasses import fields

import pytest
from typer.testing import CliRunner

from airflow_ml.cli import app
from airflow_ml.serving.server import base_flags, command
from airflow_ml.serving.server.flags import UNHEEDED, Flags, parse, unheeded


def test_both_spellings_and_bare_booleans():
    flags = parse(
        ["--port=1", "--rest_api_port", "2", "--model_name", "m", "--model_base_path=/x",
         "--allow_version_labels_for_unavailable_models", "--enable_model_warmup=0"]
    )  # fmt: skip
    assert (flags.port, flags.rest_api_port, flags.model_name, flags.model_base_path) == (1, 2, "m", "/x")
    assert flags.allow_version_labels_for_unavailable_models
    assert not flags.enable_model_warmup


def test_the_help_tells_every_flag_with_its_default_and_meaning():
    shown = " ".join(CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output.split())
    for flag in fields(Flags):
        default = str(flag.default).lower() if isinstance(flag.default, bool) else flag.default
        assert f"--{flag.name}={default}: {flag.metadata['help']}" in shown


def test_the_other_flags_of_the_binary_are_taken():
    values = {bool: "true", int: "2", float: "0.5", str: "/file"}
    argv = [f"--{name}={values[kind]}" for name, kind in UNHEEDED.items()]
    bare = [f"--{name}" for name, kind in UNHEEDED.items() if kind is bool]
    assert (
        parse(["--model_base_path=/x", *argv]) == parse(["--model_base_path=/x", *bare]) == Flags(model_base_path="/x")
    )
    assert unheeded(argv) == list(UNHEEDED)
    assert unheeded(["--num_load_threads", "2", "--port=1"]) == ["num_load_threads"]


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["--version"])
    assert ended.value.code == 0
    ours, library = capsys.readouterr().out.splitlines()
    assert ours.startswith("airflow-ml model server (stand-in for tensorflow_model_server): ")
    assert library.startswith("TensorFlow Library: 2.")


@pytest.mark.parametrize(
    "argv", [[], ["--model_base_path=relative"], ["--model_base_path=/x", "--unknown=1"], ["--port=x"], ["--mod=/x"]]
)
def test_what_is_wrong_ends_the_start(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(argv)
    assert ended.value.code == 2
    assert capsys.readouterr().err


def test_the_real_binary_is_preferred(tmp_path, monkeypatch):
    assert command(["--port=1"])[1:3] == ["-m", "airflow_ml.serving.server"]
    binary = tmp_path / "tensorflow_model_server"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command(["--port=1"]) == ["tensorflow_model_server", "--port=1"]
    assert all(flag.startswith("--") for flag in base_flags(tmp_path))


@pytest.mark.parametrize("flags", [["--host=127.0.0.1"], ["--host", "127.0.0.1"]])
def test_an_address_that_the_real_binary_would_ignore_is_refused(tmp_path, monkeypatch, flags):
    assert command(["--port=1", *flags])[-len(flags) :] == flags, "the stand-in listens where it is told"
    binary = tmp_path / "tensorflow_model_server"
    binary.write_text("#!/bin/sh\necho started\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(app, ["serve", "--port=1", *flags])
    assert done.exit_code == 1
    assert "tensorflow_model_server has no --host: it listens on all addresses" in done.output
    assert "remedy: leave --host out" in done.output
    assert "started" not in done.output
