"""Spark features by `spark-submit --master k8s://` in cluster mode: driver and executors are pods of the cluster."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from airflow_ml import Platform
from airflow_ml.compute.kubernetes.host import host_template
from airflow_ml.examples.flights.world import World
from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.requests import JobRequest, JobResult
from airflow_ml.lifecycle.windows import Window
from airflow_ml.stages.runner import execute
from airflow_ml.stages.spark import java_home
from tests.support.kube_cluster import connect, image_of_tests
from tests.support.plain_features import PLAIN

ROOT = Path(__file__).parents[2]
NIGHT = Window.of("2013-01-01")
_QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto"


@pytest.fixture
def account(cluster):
    """Who may start executors, by the Role that we ship."""
    import yaml

    for kind in yaml.safe_load_all((ROOT / "docker/kubernetes/spark-role.yaml").read_text()):
        version = kind["apiVersion"]
        root = f"/api/{version}" if version == "v1" else f"/apis/{version}"
        plural = f"{kind['kind'].lower()}s"
        cluster.create(f"{root}/namespaces/{cluster.namespace}/{plural}", kind)
    return "airflow-ml-spark"


@pytest.fixture
def java(base, monkeypatch):
    """A Java that pods see, too: the environment's own, started by a script in the base."""
    with monkeypatch.context() as patch:
        patch.delenv("JAVA_HOME", raising=False)
        patch.setenv("PATH", "")
        patch.setenv("XDG_CACHE_HOME", str(base))
        return java_home()


def test_features_are_built_by_a_driver_and_executors_in_pods(cluster, base, account, java, tmp_path):
    World(base / "landing").deliver(NIGHT)

    def request(stage):
        return JobRequest(stage=stage, model=PLAIN, platform=Platform(base=str(base)), window=NIGHT)

    for stage in ("ingest", "validate"):
        execute(request(stage))
    asked, answer = base / "request.json", base / "response.json"
    asked.write_text(request("features").model_dump_json())
    template = host_template(base)
    container = template["spec"]["containers"][0]
    # What the Spark image has as its entry point, and as its environment.
    container["command"] = [str(ROOT / "docker/spark/entrypoint.sh")]
    environment = {
        "JAVA_HOME": java,
        "SPARK_HOME": str(Path(find_spec("pyspark").origin).parent),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
    }
    container["env"] += [{"name": name, "value": value} for name, value in environment.items()]
    pod = tmp_path / "pod.yaml"
    pod.write_text(json.dumps({"apiVersion": "v1", "kind": "Pod", **template}))
    settings = {
        "spark.kubernetes.namespace": cluster.namespace,
        "spark.kubernetes.container.image": image_of_tests(),
        "spark.kubernetes.authenticate.driver.serviceAccountName": account,
        "spark.kubernetes.driver.podTemplateFile": str(pod),
        "spark.kubernetes.executor.podTemplateFile": str(pod),
        "spark.executor.instances": "1",
        "spark.executor.memory": "512m",
        "spark.driver.memory": "1g",
        "spark.kubernetes.driver.request.cores": "100m",
        "spark.kubernetes.executor.request.cores": "100m",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "1",
        "spark.driver.extraJavaOptions": _QUICK,
        "spark.executor.extraJavaOptions": _QUICK,
    }
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("spark-submit")),
            *("--master", f"k8s://{connect().configuration.host}", "--deploy-mode", "cluster", "--name", "features"),
            *(word for name, value in settings.items() for word in ("--conf", f"{name}={value}")),
            f"local://{ROOT}/spark_jobs/features.py",
            *(str(asked), str(answer)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **environment, "SPARK_SUBMIT_OPTS": _QUICK},
        stdin=subprocess.DEVNULL,
    )
    # spark-submit ends well when the driver has ended, however that was.
    assert answer.exists(), done.stderr[-3000:] + "".join(map(cluster.log, cluster.pods()))
    result = JobResult.model_validate_json(answer.read_text())
    features = LakeTable(base / "lake" / PLAIN.name / "features").read(NIGHT)
    raw = LakeTable(base / "lake" / PLAIN.name / "raw").read(NIGHT)
    assert result.rows == features.num_rows == raw.num_rows
    assert features.sort_by("flight_id")["distance"].to_pylist() == raw.sort_by("flight_id")["distance"].to_pylist()
