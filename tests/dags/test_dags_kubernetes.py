"""Operators whose stage runs as pods of a real cluster, waiting in the worker and in a trigger."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from airflow.sdk import DAG

from airflow_ml import Horovod
from airflow_ml.compute.exchange import taken
from airflow_ml.compute.kubernetes.names import REQUEST
from airflow_ml.compute.kubernetes.observing import may_have_ended
from airflow_ml.operators import TrainModelOperator
from tests.support.kube_cluster import connect, fake_compute, namespace, needs_cluster, until
from tests.support.models import small_model

pytestmark = [pytest.mark.kubernetes, needs_cluster]


@pytest.fixture
def cluster():
    from airflow_ml.compute.kubernetes.api import ClientApi

    with namespace(ClientApi(connect)) as found:
        yield found


@pytest.fixture
def train(cluster, platform, run_dag):
    """Runs a task that trains in two pods; `stage_params` say what these do."""

    def run(deferrable, stage_params=None, compute=None, min_workers=None, **kwargs):
        pods = fake_compute(cluster.namespace, Path(platform.base), **(compute or {}))
        with DAG("pods", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC)) as dag:
            TrainModelOperator(
                task_id="train",
                model=small_model(training=Horovod(workers=2, min_workers=min_workers)),
                platform=platform.model_copy(update={"computes": {"score": pods}}),
                compute="kubernetes",
                start="2013-01-01",
                end="2013-03-01",
                stage_params=stage_params or {},
                deferrable=deferrable,
                **kwargs,
            )
        _, states = run_dag(dag)
        return states["train"]

    return run


@pytest.mark.parametrize(
    ("deferrable", "min_workers"),
    [(False, None), (True, None), (True, 1)],
    ids=["in the worker", "in a trigger", "elastic, in a trigger"],
)
def test_a_task_trains_in_pods_and_shows_their_lines(train, cluster, deferrable, min_workers, caplog, capsys):
    lines = ["INFO epoch 1/3: loss 0.5", "WARNING look at this"]
    assert train(deferrable, {"do": "sleep", "seconds": 2, "lines": lines}, min_workers=min_workers) == "success"
    (job,) = [each for each in cluster.jobs() if "ownerReferences" not in each["metadata"]]
    assert job["metadata"]["labels"]["task_id"] == "train"
    assert taken(job["metadata"]["annotations"][REQUEST])
    shown = caplog.text + "".join(capsys.readouterr())
    assert "epoch 1/3: loss 0.5" in shown
    assert "look at this" in shown
    assert f"job {job['metadata']['name']} in namespace {cluster.namespace}" in shown


@pytest.mark.parametrize("deferrable", [False, True], ids=["in the worker", "in a trigger"])
def test_a_task_fails_with_the_words_of_the_stage(train, deferrable, caplog, capsys):
    assert train(deferrable, {"do": "fail", "error": "BadTrainingSet"}) == "failed"
    shown = caplog.text + "".join(capsys.readouterr())
    assert "BadTrainingSet: row 3: no good. Remedy: mend it" in shown, shown


def test_a_trigger_tells_the_last_lines_of_another_pod_that_failed(train, caplog, capsys):
    assert train(True, {"do": "exit", "code": 1, "pod": 1}) == "failed"
    shown = caplog.text + "".join(capsys.readouterr())
    assert re.search(r"pod \S+-1-\w+: the last words", shown), shown


@pytest.mark.parametrize("deferrable", [False, True], ids=["in the worker", "in a trigger"])
def test_a_task_whose_time_is_over_ends_its_job(train, cluster, deferrable, caplog, capsys):
    assert train(deferrable, {"do": "sleep"}, execution_timeout=timedelta(seconds=5)) == "failed"
    until(lambda: all(job["metadata"].get("deletionTimestamp") or may_have_ended(job) for job in cluster.jobs()))


def test_a_platform_without_a_cluster_is_told_so(platform, run_dag, caplog, capsys):
    with DAG("nowhere", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC)) as dag:
        TrainModelOperator(
            task_id="train",
            model=small_model(),
            platform=platform,
            compute="kubernetes",
            start="2013-01-01",
            end="2013-03-01",
        )
    _, states = run_dag(dag)
    assert states["train"] == "failed"
    assert "the platform declares no compute of kind 'kubernetes'" in caplog.text + "".join(capsys.readouterr())
