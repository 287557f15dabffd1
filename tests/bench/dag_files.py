"""The DAG files that `tests.bench.parse` compares, and how a process of its own measures what they cost a DagBag."""

import json
import time
from pathlib import Path
from typing import Any

from tests.bench.report import median

ROOT = Path(__file__).parents[2]
ROUNDS = 20
SAME = "the same DAGs of EmptyOperator"
EMPTY = '"""An airflow.sdk file without a DAG."""\n\nfrom airflow.sdk import DAG  # noqa: F401\n'


def model_file(name: str) -> str:
    """The flights' declaration and its DAGs, under another name."""
    declaration = (ROOT / "airflow_ml/examples/flights/model.py").read_text(encoding="utf-8")
    named = declaration.replace('name="flights",', f'name="{name}",')
    return (
        f"{named}\nfrom airflow_ml.pipelines import model_dags  # noqa: E402\n\nglobals().update(model_dags(flights))\n"
    )


def same_shape(name: str, tasks: dict[str, int]) -> str:
    """As many DAGs with as many tasks, each after the other, of Airflow's own empty operator."""
    lines = ["from airflow.providers.standard.operators.empty import EmptyOperator", "from airflow.sdk import DAG", ""]
    for dag_id, count in tasks.items():
        lines += [f"with DAG({name + dag_id!r}, schedule=None) as {dag_id}:", "    last = None"]
        lines += [f"    for n in range({count}):", "        task = EmptyOperator(task_id=f'task_{n}')"]
        lines += ["        if last is not None:", "            last >> task", "        last = task"]
    return "\n".join(lines) + "\n"


def shape(path: str) -> None:
    """Tasks of each DAG of a file."""
    print(json.dumps({dag.dag_id: len(dag.tasks) for dag in _parse(Path(path))}))


def parse_each(folder: str) -> None:
    """Median cost of one file of each kind, after a first parse that pays for the imports."""
    kinds = json.loads((Path(folder) / "kinds.json").read_text())
    costs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    tasks = dict.fromkeys(kinds, 0)
    for turn in range(ROUNDS + 1):
        for number, kind in enumerate(kinds):
            wall, cpu = time.perf_counter(), time.process_time()
            dags = _parse(Path(folder) / f"{number}.py")
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            tasks[kind] = sum({dag.dag_id: len(dag.tasks) for dag in dags}.values())
            if turn:
                costs[kind].append((wall * 1000, cpu * 1000))
    medians = {
        kind: {"wall_ms": median([wall for wall, _ in found]), "cpu_ms": median([cpu for _, cpu in found])}
        for kind, found in costs.items()
    }
    print(json.dumps({kind: {**medians[kind], "tasks": tasks[kind]} for kind in kinds}))


def parse_folder(folder: str) -> None:
    """A DagBag of a whole folder, imports included, as Airflow fills one."""
    from airflow.dag_processing.dagbag import DagBag

    wall, cpu = time.perf_counter(), time.process_time()
    bag = DagBag(folder)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if bag.import_errors:
        raise RuntimeError(next(iter(bag.import_errors.values())))
    first = max(stat.duration for stat in bag.dagbag_stats).total_seconds()
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "dags": len(bag.dags), "first_ms": first * 1000}))


def _parse(path: Path) -> list[Any]:
    from airflow.dag_processing.dagbag import DagBag

    bag: Any = DagBag(path, collect_dags=False)
    dags: list[Any] = bag.process_file(str(path), only_if_updated=False, safe_mode=True)
    if bag.import_errors:
        raise RuntimeError(next(iter(bag.import_errors.values())))
    return dags
