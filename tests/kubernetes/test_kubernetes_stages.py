"""Stages that are no training, as single Jobs: export, a night of scoring, and one for which nobody waits any more."""

import gzip
import json
from pathlib import Path

import pytest

from airflow_ml import Platform
from airflow_ml.compute import Phase, wait
from airflow_ml.compute.kubernetes.pods import KubernetesPods
from airflow_ml.lifecycle.protocol import RESPONSE
from airflow_ml.lifecycle.requests import Coordinates, JobRequest
from airflow_ml.lifecycle.windows import Window
from tests.support.finished import NIGHT, commit_features, crown, finish_training, register
from tests.support.kube_cluster import namespace, real_compute, until
from tests.support.models import small_model

DAY = Window.of("2013-01-01")


def sent_by(task, request):
    at = Coordinates(dag_id="d", task_id=task, run_id="r", task_instance=task)
    return request.model_copy(update={"coordinates": at})


@pytest.fixture(scope="module")
def shared(api):
    """A namespace for all jobs of this module: one works while another is waited for."""
    with namespace(api) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def forsaken(api, shared, tmp_path_factory):
    """A job whose submitter never comes back: its compute, and what it was submitted as."""
    base = tmp_path_factory.mktemp("forsaken")
    landed = base / "landing" / "outcomes" / "2013-01-01.csv.gz"
    landed.parent.mkdir(parents=True)
    landed.write_bytes(gzip.compress(b"id,y\na,1\n"))
    label = small_model().label.model_copy(update={"compute": "tests.support.sleepy:label"})
    asked = JobRequest(
        stage="ingest_outcomes", model=small_model(label=label), platform=Platform(base=str(base)), window=DAY
    )
    compute = KubernetesPods(real_compute(shared.namespace, base, lease_s=30), api)
    return compute, compute.submit(sent_by("forsaken", asked), {})


def test_a_network_is_exported_and_a_night_is_scored_in_single_jobs(api, shared, forsaken, tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    done = finish_training(base)
    compute = KubernetesPods(real_compute(shared.namespace, base), api)

    def run(stage, window):
        result = wait(compute, compute.submit(sent_by(stage, done.request(stage, window)), {}), print)
        (job,) = [job for job in shared.jobs() if job["metadata"]["labels"]["task_id"] == stage]
        assert job["spec"]["completions"] == 1
        assert not result.reused
        return result

    exported = run("export", done.request("export").window)
    assert exported.outputs["saved_model"].uri.startswith(str(base))
    done.inputs["export"] = exported.uri
    crown(done, register(done))
    commit_features(done)
    assert run("score", Window.of(NIGHT)).rows == 300
    assert done.table("predictions").read(Window.of(NIGHT)).num_rows == 300


def test_a_job_that_nobody_waits_for_ends_itself_when_its_lease_is_over(shared, forsaken):
    compute, handle = forsaken
    answer = Path(handle.folder) / RESPONSE
    until(answer.exists, 90)
    assert json.loads(answer.read_text())["what"] == "nobody has waited for this job for 30 s"
    until(lambda: compute.poll(handle).phase is Phase.ENDED)
    assert [pod["status"]["phase"] for pod in shared.pods(handle.job.name)] == ["Failed"]
