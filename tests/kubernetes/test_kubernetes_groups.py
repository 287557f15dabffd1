"""Pod groups, on a cluster whose second scheduler is that of the scheduler plugins, with its coscheduling."""

import time

import pytest

from airflow_ml.compute import Phase, wait
from airflow_ml.compute.kubernetes.names import ROLE, WORKER
from airflow_ml.compute.kubernetes.pods import KubernetesPods
from airflow_ml.lifecycle.errors import JobFailed
from tests.support.kube_cluster import fake_compute, until

_GROUP = "scheduling.x-k8s.io"


@pytest.fixture
def grouped_of(api, cluster, base, seats):
    """Makes a compute whose pods are placed together, each on a seat."""
    if _GROUP not in {group["name"] for group in api.call("GET", "/apis")["groups"]}:
        pytest.skip("the cluster has no pod groups: install the scheduler plugins' coscheduling")

    def make(**changes):
        spec = fake_compute(cluster.namespace, base, pod_group=True, **changes)
        spec.template["spec"]["containers"][0]["resources"]["limits"][seats.resource] = "1"
        return KubernetesPods(spec, api)

    return make


def placed(cluster):
    return [pod for pod in cluster.pods() if pod["spec"].get("nodeName")]


def test_a_group_is_placed_whole_or_not_at_all(grouped_of, cluster, seats, request_of):
    seats.offer(2)
    compute = grouped_of()
    handle = compute.submit(request_of(workers=3), {})
    until(lambda: len(cluster.pods()) == 3)
    until(lambda: any("PodScheduled" in str(pod["status"]) for pod in cluster.pods()))
    for _ in range(25):
        assert compute.poll(handle).phase is Phase.RUNNING
        assert placed(cluster) == []
        time.sleep(0.2)
    seats.offer(3)
    assert wait(compute, handle, print).rows == 7


def test_of_an_elastic_group_as_many_are_placed_as_it_needs(grouped_of, cluster, seats, request_of):
    seats.offer(1)
    compute = grouped_of()
    handle = compute.submit(request_of(do="sleep", workers=3, min_workers=2), {})

    def workers(pods):
        return [pod for pod in pods if pod["metadata"]["labels"].get(ROLE) == WORKER]

    until(lambda: len(workers(cluster.pods())) == 3)
    # The coordinator waits for them by itself.
    until(lambda: len(placed(cluster)) == 1)
    for _ in range(15):
        assert workers(placed(cluster)) == []
        time.sleep(0.2)
    seats.offer(2)
    until(lambda: len(workers(placed(cluster))) == 2)
    compute.cancel(handle)
    assert cluster.pods() == []


def test_a_group_that_finds_no_place_is_let_go_in_the_words_of_its_scheduler(grouped_of, cluster, seats, request_of):
    seats.offer(2)
    compute = grouped_of(start_timeout_s=8)
    with pytest.raises(JobFailed, match=r"not all .* ran within 8 s: pod .*: 0/\d+ nodes are available: .*reject"):
        wait(compute, compute.submit(request_of(workers=3), {}), print)
    assert cluster.jobs() == []
    assert cluster.pods() == []
