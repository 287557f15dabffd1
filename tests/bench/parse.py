"""DAG file parse cost: a model's file against an empty ``airflow.sdk`` file and the same DAGs of empty operators.

A model's file here is the worst that a user can write: the whole declaration of the flights under a name of its own,
and `model_dags`. Usually the declaration is a module that Python has compiled already.

In a DagBag everything is imported once, and what is measured is the file: *ours* is what a model costs above the same
DAGs made of `EmptyOperator`. The dag processor forks a fresh process for each file, so a file pays its imports, too.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.dag_files import EMPTY, ROUNDS, SAME, model_file, same_shape
from tests.bench.report import Report, Table, median

ROOT = Path(__file__).parents[2]
MANY = 1000
PROCESSED = 60
"""Files of a folder that the dag processor reads: enough to tell a file from the start of the process."""

CHILD = "from tests.bench.dag_files import {function}; {function}({argument!r})"


def run() -> Report:
    """Measure in processes of their own, below a temporary AIRFLOW_HOME."""
    with tempfile.TemporaryDirectory(prefix="bench-parse-") as temporary:
        root = Path(temporary)
        environment = _environment(root / "home")
        folders = _write_folders(root, environment)
        print(f"  DagBag: {ROUNDS} rounds, then {MANY} models in one folder", flush=True)
        bag = _child("parse_each", str(root / "one"), environment)
        many = _child("parse_folder", str(root / "many"), environment)
        print(f"  dag-processor --num-runs 1: {PROCESSED} files of each kind", flush=True)
        processor = _processor(root, folders, environment)
    ours = bag["model"]["cpu_ms"] - bag[SAME]["cpu_ms"]
    above = {part: processor["model"][part] - processor["empty"][part] for part in ("wall_ms", "cpu_ms")}
    in_bag = Table(
        "DagBag: a file in a process that has parsed its kind before",
        ("file", "CPU ms", "wall ms", "CPU ms above empty", "tasks"),
        tuple(
            (kind, found["cpu_ms"], found["wall_ms"], found["cpu_ms"] - bag["empty"]["cpu_ms"], found["tasks"])
            for kind, found in bag.items()
        ),
    )
    in_processor = Table(
        "airflow dag-processor --num-runs 1 (two parsers): a file with DAGs that the database knows, or not yet",
        ("file", "wall ms", "CPU ms", "CPU ms above empty", "new: CPU ms"),
        tuple(
            (
                kind,
                found["wall_ms"],
                found["cpu_ms"],
                found["cpu_ms"] - processor["empty"]["cpu_ms"],
                found["new_cpu_ms"],
            )
            for kind, found in processor.items()
        ),
    )
    goals = Table(
        "Goals",
        ("what", "measured", "goal"),
        (
            ("DagBag: ours a model, CPU ms", ours, "≤ 10"),
            ("dag processor: a model above the empty file, wall ms", above["wall_ms"], "≤ 60"),
            ("the same, CPU ms", above["cpu_ms"], ""),
            (f"DagBag: {MANY:,} models in one folder, wall s", many["wall_s"], "≤ 30"),
            ("the same, CPU s", many["cpu_s"], ""),
            ("DagBag: the first model of a process, wall ms (its imports)", many["first_ms"], ""),
        ),
    )
    details = {"dagbag": bag, "many": many, "processor": processor, "ours_ms": ours, "above_empty": above}
    notes = (
        f"DagBag: median of {ROUNDS} rounds, kinds in turn; ours is a model less {SAME}",
        f"dag processor: {PROCESSED} files less the start of the process with one empty file, shared by the others",
    )
    return Report("parse", (in_bag, in_processor, goals), notes, details)


def _environment(home: Path) -> dict[str, str]:
    """An Airflow of its own, with its defaults, which knows none of the caller's settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW__", "AIRFLOW_"))}
    return kept | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _write_folders(root: Path, environment: dict[str, str]) -> dict[str, Path]:
    """``one/<kind>.py``, ``many/`` of models, and ``<kind>/`` of PROCESSED files for the processor."""
    (root / "one").mkdir()
    (root / "one" / "model.py").write_text(model_file("flights"))
    shape = {
        str(dag_id): int(count) for dag_id, count in _child("shape", str(root / "one/model.py"), environment).items()
    }
    writers: dict[str, Callable[[int], str]] = {
        "empty": lambda n: EMPTY,
        SAME: lambda n: same_shape(f"m{n}_", shape),
        "model": lambda n: model_file(f"flights_{n}"),
    }
    folders = {}
    for number, (kind, write) in enumerate(writers.items()):
        (root / "one" / f"{number}.py").write_text(write(0))
        folders[kind] = root / f"processor-{number}"
        folders[kind].mkdir()
        for n in range(PROCESSED):
            (folders[kind] / f"dags_{n}.py").write_text(write(n))
    (root / "one" / "kinds.json").write_text(json.dumps(list(writers)))
    (root / "many").mkdir()
    for n in range(MANY):
        (root / "many" / f"dags_{n}.py").write_text(model_file(f"flights_{n}"))
    return folders


def _child(function: str, argument: str, environment: dict[str, str]) -> dict[str, Any]:
    """Call a function of `tests.bench.dag_files` in a fresh interpreter; what it prints last is its answer."""
    code = CHILD.format(function=function, argument=argument)
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _processor(root: Path, folders: dict[str, Path], environment: dict[str, str]) -> dict[str, dict[str, float]]:
    """Milliseconds a file of a real dag processor: those of a whole folder, less those of one empty file."""
    subprocess.run(["airflow", "db", "migrate"], env=environment, check=True, stdout=subprocess.DEVNULL)
    single = root / "single"
    single.mkdir()
    (single / "dags_0.py").write_text(EMPTY)
    starts = [_process(single, environment) for _ in range(4)][
        1:
    ]  # the first one compiles what was never imported here
    start = [median([found[part] for found in starts]) for part in (0, 1)]
    result = {}
    for kind, folder in folders.items():
        new = _process(folder, environment)
        known = _process(folder, environment)
        wall, cpu = ((known[part] - start[part]) / (PROCESSED - 1) * 1000 for part in (0, 1))
        first = (new[1] - start[1]) / (PROCESSED - 1) * 1000
        result[kind] = {"wall_ms": wall, "cpu_ms": cpu, "new_cpu_ms": first, "new_wall_s": new[0], "wall_s": known[0]}
    return result


def _process(folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of ``airflow dag-processor --num-runs 1`` over a folder, its forked parsers included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    with (folder.parent / f"{folder.name}.log").open("wb") as output:
        subprocess.run(
            ["airflow", "dag-processor", "--num-runs", "1"],
            env=environment | {"AIRFLOW__CORE__DAGS_FOLDER": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=True,
        )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
