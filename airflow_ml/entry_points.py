"""Importing a model's entry points in a process of their own: Spark, torch and user code stay out of this one."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from airflow_ml.lifecycle.refusals import Problem
from airflow_ml.spec import Model

_IMPORT_TIMEOUT_S = 120
_PROBE = """
import importlib, json, sys
from pathlib import Path
problems = []
for entry_point in json.loads(sys.argv[1]):
    module, _, name = entry_point.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except BaseException as error:
        problems.append([entry_point, f"cannot import {module}: {type(error).__name__}: {error}"])
        continue
    if not callable(found):
        problems.append([entry_point, f"{module} has no function {name!r}"])
Path(sys.argv[2]).write_text(json.dumps(problems), encoding="utf-8")
"""
"""Answers in a file: what a module prints, while it is imported or when the process ends, is its own affair."""


def entry_points(model: Model) -> dict[str, str]:
    """Field to entry point, for every one that the model declares."""
    found = {"features.build": model.features.build, "label.compute": model.label.compute}
    if model.training.fit is not None:
        found["training.fit"] = model.training.fit
    if model.serving.builder is not None:
        found["serving.builder"] = model.serving.builder
    return found


def check_entry_points(model: Model) -> list[Problem]:
    """Entry points that cannot be imported or are no functions."""
    wanted = entry_points(model)
    fields = {point: field for field, point in wanted.items()}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "problems.json"
        command = [sys.executable, "-c", _PROBE, json.dumps(sorted(set(wanted.values()))), str(answer)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_IMPORT_TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        except subprocess.TimeoutExpired:
            what = f"importing takes more than {_IMPORT_TIMEOUT_S} s"
            return [Problem(", ".join(wanted), what, "do no work at import time")]
        if not answer.exists():
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            what = f"importing ended the process: {last}"
            return [Problem(", ".join(wanted), what, "import the modules by hand and see")]
        found: list[tuple[str, str]] = json.loads(answer.read_text(encoding="utf-8"))
    fix = "install the package or run this in its folder; define the function; write 'package.module:function'"
    return [Problem(fields[point], f"{point!r}: {what}", fix) for point, what in found]
