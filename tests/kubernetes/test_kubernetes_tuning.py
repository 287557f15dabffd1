"""Searches on a real cluster: trials side by side, with checkpoints in a bucket; one killed, and one that is worse."""

import os
from datetime import datetime
from pathlib import Path

import optuna
import pytest

from airflow_ml.compute.kubernetes.pods import KubernetesPods
from airflow_ml.compute.search import Search
from airflow_ml.registry.client import client_of
from airflow_ml.spec import Tune, between
from tests.support.kube_cluster import real_compute, until
from tests.support.s3 import BUCKET, s3_server
from tests.unit.training.conftest import model

HOST = os.environ.get("AIRFLOW_ML_TEST_HOST", "10.244.0.1")
"""Address of this machine as pods see it."""
TUNE = Tune(trials=2, parallel=2, search={"learning_rate": between(0.005, 0.05, log=True)})


def test_two_trials_are_jobs_that_run_at_the_same_time_and_report_to_one_study(
    api, cluster, make_request, splits, shared_base
):
    with s3_server(HOST) as bucket:
        names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
        compute = KubernetesPods(real_compute(cluster.namespace, shared_base, splits), api)
        declared = model(tune=TUNE, workers=1, params={"epochs": 3, "batch_size": 128, "hidden": [8]})
        request = make_request(shared_base, "tune", declared)
        elsewhere = request.platform.model_copy(update={"checkpoints": f"s3://{BUCKET}/checkpoints"})
        request = request.model_copy(update={"platform": elsewhere})
        told: list[str] = []
        found = Search(request, compute, {name: os.environ[name] for name in names}, told.append).run()
        listed = bucket.list_objects_v2(Bucket=BUCKET, Prefix="checkpoints/")["Contents"]

    assert [trial["state"] for trial in found["trials"]] == ["complete", "complete"], told
    # Their reports came out of the pods' logs, epoch by epoch, and into the study that lies in the base.
    address = f"sqlite:///{shared_base}/tuning/toy.db"
    study = optuna.load_study(study_name=found["study"], storage=address)
    client = client_of(request.platform)
    for trial in study.trials:
        history = client.get_metric_history(trial.user_attrs["mlflow_run_id"], "validation_loss")
        assert trial.intermediate_values == {metric.step: metric.value for metric in history}
        assert list(trial.intermediate_values) == [1, 2, 3]
        assert trial.value == min(trial.intermediate_values.values())
    assert found["best"] == study.best_trial.number

    jobs = cluster.jobs()
    assert sorted(job["metadata"]["labels"]["map_index"] for job in jobs) == ["0", "1"]
    assert {job["metadata"]["annotations"]["run_id"] for job in jobs} == {found["study"]}
    ran = [_ran(pod) for job in jobs for pod in cluster.pods(job["metadata"]["name"])]
    assert len(ran) == 2
    assert max(began for began, _ in ran) < min(ended for _, ended in ran)

    # Two of three epochs of each training are kept, and none beside their results.
    kept = [Path(each["Key"]) for each in listed if each["Size"]]
    assert [path.name for path in kept] == ["epoch-00002.pt", "epoch-00003.pt"] * 2
    assert len({path.parent for path in kept}) == 2


def test_a_search_that_was_killed_goes_on_with_its_jobs_and_one_that_is_worse_leaves_none(
    api, cluster, fake_of, make_request, base
):
    class Killed(BaseException):
        pass

    def searching():
        tune = Tune(trials=5, parallel=4, search={"worse": between(0, 1)})
        request = make_request(base, "tune", model(tune=tune, workers=1))
        return Search(request, fake_of(api), {}, told.append)

    def jobs():
        return {job["metadata"]["labels"]["map_index"]: job["metadata"]["uid"] for job in cluster.jobs()}

    def dies(*_):
        until(lambda: [pod["status"]["phase"] for pod in cluster.pods()] == ["Running"] * 4)
        raise Killed

    told: list[str] = []
    first = searching()
    study = first._study()
    for worse in (0, 0, 0, 0, 1):
        study.enqueue_trial({"worse": worse})
    # After kill -9 nobody ends anything.
    first.compute.pause, first.compute.cancel = dies, lambda *_, **__: None
    with pytest.raises(Killed):
        first.run()
    begun = jobs()
    assert begun.keys() == {"0", "1", "2", "3"}

    found = searching().run()
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 4 + ["pruned"], told
    # The same jobs, each of one pod, and none of the trial that would still run.
    assert jobs() == begun
    assert [pod["status"]["phase"] for pod in cluster.pods()] == ["Succeeded"] * 4


def _ran(pod) -> tuple[datetime, datetime]:
    """Begin and end of a pod's container."""
    (state,) = pod["status"]["containerStatuses"]
    ended = state["state"]["terminated"]
    return datetime.fromisoformat(ended["startedAt"]), datetime.fromisoformat(ended["finishedAt"])
