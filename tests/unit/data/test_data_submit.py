"""The same stage under spark-submit, as a cluster would run it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_ml.lifecycle.requests import JobRequest, JobResult
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Platform
from airflow_ml.stages.spark import java_home
from tests.unit.data.conftest import INPUTS

NIGHT = Window.of("2013-01-14")


@pytest.mark.slow
def test_spark_submit_runs_the_same_stage(built, tmp_path):
    base = built.copy(tmp_path / "base", *INPUTS)
    asked, answer = tmp_path / "request.json", tmp_path / "response.json"
    platform = Platform(base=str(base.path))
    request = JobRequest(stage="features", model=base.model, platform=platform, window=NIGHT)
    asked.write_text(request.model_dump_json())
    submit = Path(sys.executable).with_name("spark-submit")
    script = Path(__file__).parents[3] / "spark_jobs" / "features.py"
    quick = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto"
    options = ["--master", "local[2]", "--driver-java-options", quick, "--conf", "spark.ui.enabled=false"]
    done = subprocess.run(
        [str(submit), *options, str(script), str(asked), str(answer)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAVA_HOME": java_home(), "PYSPARK_PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    expected = built.table("features").read(NIGHT).sort_by("flight_id")
    assert JobResult.model_validate_json(answer.read_text()).rows == expected.num_rows
    assert base.table("features").read(NIGHT).sort_by("flight_id").equals(expected)
