"""What the README tells people to write into an Airflow of their own, written into one."""

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from airflow.sdk import DAG, CronTriggerTimetable

from airflow_ml import operators, pipelines, sensors
from airflow_ml.examples.flights.model import flights

README = Path(__file__).parents[2] / "README.md"

SHOW = """
import json
from airflow.sdk import conf
from airflow_ml.hooks.platform import PlatformHook
print(json.dumps({"platform": PlatformHook().platform.model_dump(mode="json"), "url": conf.get("api", "base_url")}))
"""


def _block(after: str, language: str) -> str:
    found = README.read_text(encoding="utf-8").partition(after)[2].partition(f"```{language}\n")[2]
    assert found
    return found.partition("```")[0]


def test_the_configuration_is_read_as_it_stands(tmp_path):
    """Airflow takes all that follows the equals sign for the value: a remark behind it would be a part of it."""
    (tmp_path / "airflow.cfg").write_text(_block("\n## Into an Airflow that exists", "ini"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW__", "AIRFLOW_ML_"))}
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        env=clean | {"AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    platform = found["platform"]
    assert platform["base"] == "/srv/airflow-ml"
    assert (platform["serving"]["grpc"], platform["serving"]["rest"]) == ("127.0.0.1:8500", "127.0.0.1:8501")
    assert platform["alerts"]["to"] == ["oncall@example.org"]
    assert platform["registry_ui"] == "http://127.0.0.1:5000"
    assert found["url"] == "https://airflow.example.org"


def test_the_dag_of_ones_own_in_the_readme_is_as_it_advises():
    code = _block("\nThree depths:", "python")
    known = {name: getattr(module, name) for module in (operators, pipelines, sensors) for name in module.__all__}
    made: list[DAG] = []

    def dag(*args, **kwargs):
        made.append(DAG(*args, **kwargs))
        return made[0]

    names = {"DAG": dag, "CronTriggerTimetable": CronTriggerTimetable, "datetime": datetime, "flights": flights}
    exec(code, known | names)
    (mine,) = made
    assert isinstance(mine.timetable, CronTriggerTimetable)
    assert mine.max_active_runs == 1
    assert {task.task_id: task.retries for task in mine.tasks if task.retries != 2} == {}
    assert mine.get_task("score").upstream_task_ids == {"ready"}
    assert mine.get_task("ready").upstream_task_ids == {"flights_data.build_features"}
