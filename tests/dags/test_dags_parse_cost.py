"""What keeps a DAG file cheap for the DAG processor. The milliseconds are measured by `tests.bench.parse`."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from airflow.sdk.definitions.param import process_params

from airflow_ml.examples.flights.model import flights
from airflow_ml.pipelines import model_dags
from airflow_ml.pipelines.timetables import DayOverUntil, MidnightUntil

REPOSITORY = Path(__file__).parents[2]


def test_a_file_imports_nothing_of_ours_that_the_plugin_has_not_imported():
    # Airflow loads plugins before it forks a process for each file: what is imported by then costs no file.
    code = (
        "import json, runpy, sys, airflow_ml.ui.plugin; before = set(sys.modules); "
        "runpy.run_path('dags/flights_dags.py'); print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    ours = [name for name in json.loads(done.stdout.splitlines()[-1]) if name.startswith("airflow_ml.")]
    assert "airflow_ml.examples.flights.model" in ours
    assert [name for name in ours if not name.startswith("airflow_ml.examples")] == []


def test_tasks_carry_no_copy_of_the_form():
    from airflow.serialization.serialized_objects import DagSerialization

    written = [DagSerialization.to_dict(dag)["dag"] for dag in model_dags(flights).values()]
    assert all(dag["params"] for dag in written)
    assert [task["__var"]["task_id"] for dag in written for task in dag["tasks"] if "params" in task["__var"]] == []
    assert len(json.dumps(written)) < 40_000


def test_a_run_has_the_values_of_the_form_all_the_same():
    dag = model_dags(flights)["flights_training"]
    given = process_params(dag, dag.get_task("train"), {"to": "2013-06-30", "epochs": 2}, suppress_exception=False)
    assert given["from"] is None
    assert (given["to"], given["epochs"], given["dropout"]) == ("2013-06-30", 2, None)
    with pytest.raises(ValueError, match="Invalid input for param epochs"):
        process_params(dag, dag.get_task("train"), {"epochs": "two"}, suppress_exception=False)


@pytest.mark.parametrize("kind", [MidnightUntil, DayOverUntil])
def test_a_timetable_is_made_once_a_process(kind):
    decoded = kind.deserialize(kind(date(2013, 12, 31)).serialize())
    assert decoded is kind.deserialize(decoded.serialize())
    assert decoded is not kind.deserialize(kind(date(2014, 12, 31)).serialize())
