"""The life of a job on a real cluster: once, whoever asks; ended with its pods; explained when it fails."""

import threading
import time
from pathlib import Path

import pytest

from airflow_ml.compute import Phase, follow, wait
from airflow_ml.compute.exchange import take
from airflow_ml.compute.kubernetes.facts import index_of
from airflow_ml.compute.kubernetes.names import INDEX, OWNER
from airflow_ml.compute.kubernetes.pods import KubernetesPods
from airflow_ml.compute.kubernetes.submitting import Submission
from airflow_ml.lifecycle.errors import BadFile, JobFailed
from airflow_ml.lifecycle.protocol import LEASE
from tests.support.kube_cluster import until

pytestmark = pytest.mark.usefixtures("trainings")  # which train while these tests wait


def running(cluster, number):
    return lambda: sum(1 for pod in cluster.pods() if pod["status"].get("phase") == "Running") == number


def test_a_job_returns_its_result_and_its_lines_and_its_secrets_stay_secret(fake, cluster, request_of, base):
    lines = []
    handle = fake.submit(request_of(lines=["one", "WARNING two"], show=["TOKEN"]), {"TOKEN": "s3cret"})
    result = wait(fake, handle, lines.append)
    assert result.summary == {"TOKEN": "s3cret"}
    assert lines == ["one", "WARNING two", "INFO pod 0 doing succeed"]
    (job,) = cluster.jobs()
    assert "s3cret" not in str(job)
    assert not [
        path for path in base.rglob("*.json") if b"s3cret" in path.read_bytes() and path.name != "response.json"
    ]
    # One delete removes everything: pods with the job, the rest as soon as the garbage collector comes by.
    fake.api.call(
        "DELETE",
        f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs/{job['metadata']['name']}",
        {"propagationPolicy": "Foreground"},
    )
    until(lambda: not cluster.jobs())
    until(lambda: not cluster.pods())
    until(lambda: not cluster.list("Secret") + cluster.list("Service"))
    until(lambda: {each["metadata"]["name"] for each in cluster.list("ConfigMap")} <= {"kube-root-ca.crt"})


def test_a_container_beside_the_worker_that_never_ends_does_not_keep_the_task(fake, api, cluster, request_of):
    spec = fake.spec.model_copy(deep=True)
    beside = {"name": "exporter", "image": spec.image, "command": ["sleep", "600"]}
    spec.template["spec"]["containers"].append(beside)
    compute = KubernetesPods(spec, api)
    assert wait(compute, compute.submit(request_of(), {}), print).rows == 7
    assert cluster.pods() == []


def test_the_next_try_adopts_the_job_and_the_last_one_can_no_longer_end_it(fake, fake_of, api, cluster, request_of):
    first = fake.submit(request_of(do="sleep"), {})
    until(running(cluster, 2))
    other = fake_of(api)
    second = other.submit(request_of(do="sleep", try_number=2), {})
    assert second.job.uid == first.job.uid
    assert second.folder == first.folder
    (job,) = cluster.jobs()
    assert job["metadata"]["annotations"][OWNER] == "ti-2/2"
    fake.cancel(first)
    assert fake.poll(first).phase is Phase.ENDED
    assert "another try" in fake.poll(first).detail
    assert other.poll(second).phase is Phase.RUNNING
    other.cancel(second)
    assert cluster.jobs() == []
    assert cluster.pods() == []


def test_the_coordinator_of_an_elastic_training_has_a_job_of_its_own_which_is_the_one_that_counts(
    fake, fake_of, api, cluster, request_of
):
    request = request_of(do="sleep", min_workers=1)
    first = fake.submit(request, {})
    until(running(cluster, 3))
    assert {job["metadata"]["name"] for job in cluster.jobs()} == {first.job.name, f"{first.job.name}-workers"}
    # Those that train are all alike; the one that runs the request is small, and its log is the task's.
    assert sorted(index_of(pod) for pod in cluster.pods()) == [0, 1, 2]
    until(lambda: "INFO pod 0 doing sleep" in (fake.poll(first), fake.logs(first))[1])
    other = fake_of(api)
    second = other.submit(request_of(do="sleep", min_workers=1, try_number=2), {}, timeout_s=777)
    assert second.job.uid == first.job.uid
    assert all(770 < job["spec"]["activeDeadlineSeconds"] < 850 for job in cluster.jobs())
    fake.cancel(first)
    assert other.poll(second).phase is Phase.RUNNING
    other.cancel(second)
    assert cluster.jobs() == []
    assert cluster.pods() == []


def test_another_request_of_the_task_ends_the_job_of_the_first(fake, cluster, request_of):
    first = fake.submit(request_of(do="sleep"), {})
    until(running(cluster, 2))
    second = fake.submit(request_of(do="succeed", try_number=2), {})
    assert second.job.uid != first.job.uid
    assert wait(fake, second, print).rows == 7
    assert len(cluster.jobs()) == 1


def test_a_finished_job_answers_again_until_a_task_has_its_answer(fake, cluster, request_of):
    first = fake.submit(request_of(workers=1), {})
    assert wait(fake, first, print).rows == 7
    # The worker was killed before it could say so.
    second = fake.submit(request_of(workers=1, try_number=2), {})
    assert second.job.uid == first.job.uid
    take(second.folder)
    # The task was cleared: what it was made from may be something else by now.
    third = fake.submit(request_of(workers=1, try_number=3), {})
    assert third.job.uid != first.job.uid
    assert wait(fake, third, print).rows == 7
    assert len(cluster.jobs()) == 1


def test_of_tries_that_come_at_once_one_has_the_job(fake_of, api, cluster, request_of):
    handles = {}

    def submit(number):
        handles[number] = fake_of(api).submit(request_of(do="sleep", try_number=number), {})

    threads = [threading.Thread(target=submit, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (job,) = cluster.jobs()
    owner = job["metadata"]["annotations"][OWNER]
    mine = [handle for handle in handles.values() if handle.job.uid == job["metadata"]["uid"]]
    assert owner in {handle.job.owner for handle in mine}
    for handle in handles.values():
        if handle.job.owner != owner:
            fake_of(api).cancel(handle)
    assert len(cluster.jobs()) == 1


def test_a_submitter_that_died_on_the_way_leaves_a_job_that_the_next_one_replaces(
    fake, cluster, request_of, monkeypatch
):
    class Died(BaseException):
        pass

    def die(submission, job, made):
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Submission, "_complete", die)
        with pytest.raises(Died):
            fake.submit(request_of(), {})
    assert len(cluster.jobs()) == 1
    assert wait(fake, fake.submit(request_of(try_number=2), {}), print).rows == 7
    assert len(cluster.jobs()) == 1


def test_a_stage_that_fails_says_why_and_runs_once(fake, cluster, request_of):
    with pytest.raises(BadFile, match="row 3: no good"):
        wait(fake, fake.submit(request_of(do="fail", error="BadFile"), {}), print)
    assert [pod["metadata"]["labels"][INDEX] for pod in cluster.pods()].count("0") == 1


@pytest.mark.parametrize("elastic", [{}, {"min_workers": 1}], ids=["all of them", "elastic"])
def test_memory_that_is_too_small_is_named_with_a_remedy(fake_of, api, cluster, request_of, compute_of, elastic):
    template = compute_of().template
    template["spec"]["containers"][0]["resources"] = {"limits": {"memory": "128Mi"}}
    compute, lines = fake_of(api, template=template), []
    with pytest.raises(JobFailed) as caught:
        wait(compute, compute.submit(request_of(do="eat", pod=1, **elastic), {}), lines.append)
    assert cluster.jobs() == []
    assert "OOMKilled: the container needed more than its memory limit" in caught.value.what
    assert "raise the memory limit" in caught.value.remedy
    assert [line for line in lines if line.startswith("INFO pod") and line.endswith("pod 1 doing eat")]


def test_a_pod_that_is_deleted_is_replaced(fake, cluster, request_of):
    handle = fake.submit(request_of(do="sleep", seconds=6), {})
    until(running(cluster, 2))
    (victim,) = [
        pod for pod in cluster.pods() if pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "1"
    ]
    cluster.delete_pod(victim["metadata"]["name"], grace_s=1)
    assert wait(fake, handle, print).rows == 7


@pytest.mark.parametrize("elastic", [{}, {"min_workers": 1}], ids=["all of them", "elastic"])
def test_pods_for_which_there_is_no_room_are_named_in_the_scheduler_s_words(
    fake_of, api, cluster, request_of, compute_of, elastic
):
    template = compute_of().template
    template["spec"]["nodeSelector"] = {"example.com/pool": "nowhere"}
    compute, lines = fake_of(api, template=template, start_timeout_s=6), []
    with pytest.raises(JobFailed) as caught:
        wait(compute, compute.submit(request_of(**elastic), {}), lines.append)
    assert "not all of its pods ran within 6 s" in caught.value.what
    assert "Unschedulable" in caught.value.what
    assert "node affinity" in caught.value.what
    assert [line for line in lines if line.startswith("WARNING pod") and "Unschedulable" in line]
    assert cluster.jobs() == []


def test_pods_that_may_not_be_made_are_explained_by_the_cluster(fake_of, api, cluster, request_of, compute_of):
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    cluster.create(f"/api/v1/namespaces/{cluster.namespace}/resourcequotas", quota)
    compute, lines = fake_of(api, start_timeout_s=6), []
    with pytest.raises(JobFailed, match="FailedCreate: Error creating: pods is forbidden: exceeded quota") as caught:
        wait(compute, compute.submit(request_of(), {}), lines.append)
    assert "quota" in caught.value.remedy
    assert [line for line in lines if line.startswith("WARNING job") and "exceeded quota" in line]


def test_an_image_that_is_not_there_is_told_while_the_job_waits(fake_of, api, cluster, request_of):
    compute = fake_of(api, image="localhost/nowhere:1")
    handle = compute.submit(request_of(), {})
    lines = []

    def told():
        assert compute.poll(handle).phase is Phase.RUNNING
        lines.extend(compute.logs(handle))
        return [line for line in lines if "ErrImage" in line or "ImagePullBackOff" in line]

    assert until(told)[0].startswith("WARNING pod")
    compute.cancel(handle)
    assert cluster.pods() == []


def test_a_program_that_is_not_there_fails_at_once(api, compute_of, cluster, request_of):
    compute = KubernetesPods(compute_of(python="/nowhere/python"), api)
    with pytest.raises(JobFailed, match=r"StartError.*/nowhere/python") as caught:
        wait(compute, compute.submit(request_of(), {}), print)
    assert "correct `python`" in caught.value.remedy
    assert len(cluster.pods()) <= 2, "nothing was tried again"


def test_a_job_whose_time_is_over_is_ended_by_the_cluster(fake, request_of):
    handle = fake.submit(request_of(do="sleep"), {}, timeout_s=3)
    with pytest.raises(JobFailed) as caught:
        wait(fake, handle, print)
    assert "DeadlineExceeded" in caught.value.what


def test_what_nobody_waits_for_is_ended_by_the_next_who_comes(fake_of, api, cluster, request_of):
    compute = fake_of(api, template={"spec": {"nodeSelector": {"example.com/pool": "nowhere"}}})
    handle = compute.submit(request_of(do="sleep"), {})
    assert compute.end_orphans() == []
    # Also where trainings are MPIJobs: the others are Jobs there, too.
    later = fake_of(api, engine="mpijob")
    later.clock = lambda: time.time() + 2 * compute.spec.lease_s + 1
    assert (Path(handle.folder) / LEASE).exists()
    assert later.end_orphans() == [handle.job.name]
    until(lambda: not cluster.jobs())
    assert follow(compute.poll(handle)).error is not None
