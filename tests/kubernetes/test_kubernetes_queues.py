"""Jobs in a queue of a real Kueue: all of their pods or none, told what they wait for, and waited for when evicted.

Run where the cluster of `KUBECONFIG` has Kueue with its integrations for Jobs and, where it has those, MPIJobs.
"""

import asyncio
import json
import os
import threading
import time
from pathlib import Path

import pytest
import yaml

from airflow_ml.compute import wait
from airflow_ml.compute.kubernetes.api import ApiError, ClientApi
from airflow_ml.compute.kubernetes.names import COORDINATOR, MPI_JOB, OWNER, ROLE
from airflow_ml.compute.kubernetes.queues import NO_QUEUE, QUEUE
from airflow_ml.compute.kubernetes.submitting import Submission
from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.lifecycle.protocol import LEASE
from tests.kubernetes.test_kubernetes_life import running
from tests.support.kube_account import bind, connect_as, token_of
from tests.support.kube_cluster import image_of_tests, until
from tests.support.kube_queue import NAME, kueue_of, queue_of

ROLES = Path(__file__).parents[2] / "docker" / "kubernetes" / "role.yaml"
IN_THE_QUEUE = f"INFO it waits in the queue {NAME}: "


@pytest.fixture
def queue(cluster):
    with queue_of(cluster) as found:
        yield found


class Waiter(threading.Thread):
    """Waits for a job as a task does: in the worker, or by a trigger.

    Attributes:
        lines: That it has told.
        ended: Its result, its error, or the trigger's event.
    """

    def __init__(self, compute, handle, deferred):
        super().__init__(daemon=True)
        self.compute, self.handle, self.deferred = compute, handle, deferred
        self.lines, self.ended = [], None
        self.start()

    def run(self):
        try:
            tell = self.lines.append
            self.ended = asyncio.run(self._fire(tell)) if self.deferred else wait(self.compute, self.handle, tell)
        except BaseException as error:
            self.ended = error

    async def _fire(self, tell):
        from airflow_ml.triggers.job import JobTrigger

        class Trigger(JobTrigger):
            def _tell(self, line, passwords):
                tell(line)

        deadline = time.time() + 120
        trigger = Trigger(self.handle.model_dump(), self.compute.spec.model_dump(), deadline, tell_s=1.0)
        return (await anext(trigger.run())).payload

    def said(self, text, after):
        def found():
            lines = [line for line in self.lines[after:] if text in line]
            assert lines or self.ended is None, (self.ended, self.lines)
            return lines

        return until(found, 30)[0]


class Waiting:
    """A job for which two wait: one in the worker, one by a trigger. They have to say the same."""

    def __init__(self, compute, handle):
        self.compute, self.handle = compute, handle
        self.both = [Waiter(compute, handle, deferred) for deferred in (False, True)]

    @property
    def ended(self):
        return [each.ended for each in self.both if each.ended is not None]

    def mark(self):
        """How much has been said so far."""
        return [len(each.lines) for each in self.both]

    def said(self, text, after=(0, 0)):
        """The first lines after so many others that have a text; waits for them."""
        return [each.said(text, count) for each, count in zip(self.both, after, strict=True)]

    def result(self):
        """What the job has answered."""
        for each in self.both:
            each.join(40)
        in_worker, in_trigger = (each.ended for each in self.both)
        assert (in_trigger["status"], in_trigger["answered"]) == ("ended", True), (in_trigger, self.both[1].lines)
        assert not isinstance(in_worker, BaseException), (in_worker, self.both[0].lines)
        return in_worker


@pytest.fixture
def waiting(fake_of, api, monkeypatch):
    """Submits a request to the queue, and waits for it."""
    connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": os.environ["KUBECONFIG"]}}
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection))
    begun = []

    def submit(request, **changes):
        compute = fake_of(api, queue=NAME, **changes)
        begun.append(Waiting(compute, compute.submit(request, {})))
        return begun[-1]

    yield submit
    for each in begun:
        each.compute.cancel(each.handle)
        for waiter in each.both:
            waiter.join(20)


def nothing_starts(cluster, seconds, but=0):
    """For so long there is no pod, but so many."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pods = cluster.pods()
        assert len(pods) == but, [pod["metadata"]["name"] for pod in pods]
        time.sleep(0.2)


def test_a_queue_that_is_not_there_is_named_before_anything_is_submitted(cluster, fake_of, api, request_of):
    expected = "cluster has no Kueue" if kueue_of(api) is None else "there is no local queue nowhere"
    with pytest.raises(SpecError, match=expected):
        fake_of(api, queue="nowhere").submit(request_of(), {})
    assert cluster.jobs() == []


def test_a_job_for_which_there_is_room_runs_to_its_end_by_the_role_that_we_ship(cluster, queue, fake_of, request_of):
    token = token_of(cluster, "airflow-ml")
    role = next(each for each in yaml.safe_load_all(ROLES.read_text()) if each["kind"] == "Role")
    cluster.create(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{cluster.namespace}/roles", role)
    bind(cluster, "airflow-ml", "airflow-ml")
    compute = fake_of(ClientApi(lambda: connect_as(token)), queue=NAME)
    handle = compute.submit(request_of(), {})
    assert wait(compute, handle, print).rows == 7
    until(lambda: "Finished" in queue.workloads()[handle.job.uid])


def test_of_a_job_for_which_there_is_no_room_no_pod_starts_and_time_in_the_queue_is_not_time_in_starting(
    cluster, queue, waiting, request_of
):
    queue.room_for(1)
    job = waiting(request_of(), start_timeout_s=8)
    assert all("insufficient" in line for line in job.said(f"{IN_THE_QUEUE}couldn't"))
    # There is room for one of the two; longer than a start may take, neither comes.
    nothing_starts(cluster, 9)
    assert job.ended == []
    queue.room_for(2)
    job.said("INFO its queue has let it go")
    assert job.result().rows == 7
    for each in job.both:
        assert each.lines.index("INFO its queue has let it go") < each.lines.index("INFO pod 0 doing succeed")


def test_the_default_queue_of_a_namespace_does_not_take_a_job_that_is_only_being_made(
    cluster, queue, fake_of, api, request_of, monkeypatch
):
    queue.be_default()
    complete = Submission._complete

    def slowly(submission, job, made):
        time.sleep(1)
        complete(submission, job, made)

    monkeypatch.setattr(Submission, "_complete", slowly)
    compute = fake_of(api, queue=NAME)
    handle = compute.submit(request_of(), {})
    lines = []
    assert wait(compute, handle, lines.append).rows == 7
    (job,) = cluster.jobs()
    assert job["metadata"]["labels"][QUEUE] == NAME
    assert not [line for line in lines if NO_QUEUE in line]


def test_a_job_that_waits_is_cancelled_with_all_that_is_of_it(cluster, queue, waiting, request_of):
    queue.room_for(0)
    job = waiting(request_of())
    job.said(IN_THE_QUEUE)
    job.compute.cancel(job.handle)
    assert (cluster.jobs(), cluster.pods()) == ([], [])
    until(lambda: not queue.workloads())
    until(lambda: not cluster.list("Secret") + cluster.list("Service"))


def test_a_job_that_makes_room_for_an_urgent_one_is_waited_for_and_runs_anew(cluster, queue, waiting, request_of):
    job = waiting(request_of(do="sleep", seconds=3), lease_s=30)
    until(running(cluster, 2))
    job.said("INFO pod 0 doing sleep")
    queue.urgent(image_of_tests(), 1)
    job.said("Preempted to accommodate a workload")
    until(lambda: [pod["metadata"]["name"].startswith("urgent") for pod in cluster.pods()] == [True])
    evicted = next(each for each in cluster.jobs() if each["metadata"]["name"] == job.handle.job.name)
    assert (evicted["spec"]["suspend"], evicted["metadata"]["annotations"][OWNER]) == (True, job.handle.job.owner)
    before = job.mark()
    job.said("INFO its queue has let it go", before)
    # Nobody takes it for one that was left.
    assert time.time() - (Path(job.handle.folder) / LEASE).stat().st_mtime < 12
    assert job.compute.end_orphans() == []
    assert job.result().rows == 7
    for each in job.both:
        assert each.lines.count("INFO pod 0 doing sleep") == 2
        assert not [line for line in each.lines if line.startswith("WARNING")]


def test_the_workers_of_an_elastic_training_wait_and_are_evicted_and_their_coordinator_stays(
    cluster, queue, waiting, request_of
):
    queue.room_for(1)
    job = waiting(request_of(do="sleep", min_workers=1), start_timeout_s=8)
    assert all("insufficient" in line for line in job.said(IN_THE_QUEUE))
    until(running(cluster, 1))
    nothing_starts(cluster, 1, but=1)
    queue.room_for(2)
    until(running(cluster, 3))
    before = job.mark()
    queue.stop()
    assert all("stopped" in line for line in job.said(IN_THE_QUEUE, before))
    until(lambda: len(cluster.pods()) == 1)
    nothing_starts(cluster, 1, but=1)
    (pod,) = cluster.pods()
    assert pod["metadata"]["labels"][ROLE] == COORDINATOR
    before = job.mark()
    queue.go_on()
    job.said("INFO its queue has let it go", before)
    until(running(cluster, 3))
    assert job.ended == []
    job.compute.cancel(job.handle)
    assert (cluster.jobs(), cluster.pods()) == ([], [])


def test_the_launcher_and_the_workers_of_an_mpi_job_are_let_go_together(cluster, queue, waiting, request_of):
    try:
        cluster.list("MPIJob", version=MPI_JOB.version)
    except ApiError:
        pytest.skip("no MPI operator: the cluster has no API group kubeflow.org")
    job = waiting(request_of(do="sleep", seconds=3), engine="mpijob")
    assert all("insufficient" in line for line in job.said(f"{IN_THE_QUEUE}couldn't"))
    nothing_starts(cluster, 1)
    queue.room_for(3)
    job.said("INFO pod 0 doing sleep")
    before = job.mark()
    queue.stop()
    job.said("stopped", before)
    queue.go_on()
    job.said("INFO pod 0 doing sleep", before)
    assert job.result().rows == 7
    assert "Finished" in queue.workloads()[job.handle.job.uid]
