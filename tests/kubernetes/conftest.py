"""A cluster: whatever `KUBECONFIG` leads to. Each test has a namespace of its own."""

import sys
from pathlib import Path

import pytest

from airflow_ml import Horovod, Platform
from airflow_ml.compute.kubernetes.api import ClientApi, path_of
from airflow_ml.compute.kubernetes.host import host_template
from airflow_ml.compute.kubernetes.pods import KubernetesPods
from airflow_ml.lifecycle.requests import Coordinates, JobRequest
from airflow_ml.stages.runner import execute
from tests.support.kube_cluster import (
    connect,
    fake_compute,
    image_of_tests,
    namespace,
    needs_cluster,
    real_compute,
    seats_of,
)
from tests.support.models import small_model
from tests.unit.training.conftest import make_request, model, splits

__all__ = ["make_request", "splits"]

ROOT = Path(__file__).parents[2]
IMAGES = ("airflow", "spark", "trainer")


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.kubernetes)
            item.add_marker(needs_cluster)


@pytest.fixture(scope="package")
def api():
    return ClientApi(connect)


@pytest.fixture
def cluster(api):
    with namespace(api) as found:
        yield found


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    return folder


@pytest.fixture
def compute_of(cluster, base):
    """Makes the declaration of a compute in the test's namespace."""

    def make(*folders, **changes):
        return real_compute(cluster.namespace, base, *folders, **changes)

    return make


@pytest.fixture
def fake_of(cluster, base):
    """Makes a compute whose pods do what the request's params say."""

    def make(api, **changes):
        return KubernetesPods(fake_compute(cluster.namespace, base, **changes), api)

    return make


@pytest.fixture
def fake(fake_of, api):
    return fake_of(api)


@pytest.fixture
def request_of(base):
    """Makes a request; its params say what the pods do."""

    def make(workers=2, try_number=1, task_instance=None, min_workers=None, **params):
        return JobRequest(
            stage="train",
            model=small_model(training=Horovod(workers=workers, min_workers=min_workers)),
            platform=Platform(base=str(base)),
            params=params,
            coordinates=Coordinates(
                dag_id="d",
                task_id="train",
                run_id="r",
                try_number=try_number,
                task_instance=task_instance or f"ti-{try_number}",
            ),
        )

    return make


@pytest.fixture
def seats(cluster):
    """A resource of a node that nobody else has: pods that ask for it wait until it is offered."""
    with seats_of(cluster) as found:
        yield found


@pytest.fixture(scope="package")
def image_pods(api, tmp_path_factory):
    """The smoke test of each image in a pod; they import for half a minute, in which other tests may only wait."""
    with namespace(api) as cluster:
        for image in IMAGES:
            template = host_template(tmp_path_factory.mktemp("images"))
            container = template["spec"]["containers"][0]
            container["image"] = image_of_tests()
            container["command"] = [sys.executable, str(ROOT / "docker" / image / "smoke.py")]
            # Java is the environment's own: the base image has none.
            container["env"] += [{"name": name, "value": "/tmp"} for name in ("HOME", "AIRFLOW_HOME")]
            body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": image}, **template}
            body["spec"]["restartPolicy"] = "Never"
            cluster.create(path_of("v1", "Pod", cluster.namespace), body)
        yield cluster


@pytest.fixture(scope="package")
def shared_base(tmp_path_factory):
    """One base for all trainings: a new one costs each of them the making of its registry."""
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="package")
def local(make_request, shared_base):
    """What two processes of this machine train."""
    return execute(make_request(shared_base, "train", model(workers=2)))


@pytest.fixture(scope="package")
def trainings(api, make_request, splits, shared_base, local):
    """The same training as a Job and as an MPIJob, submitted: compute, request and handle of each.

    Their pods import and train for a minute, in which other tests may only wait.
    """
    with namespace(api) as cluster:
        submitted = {}
        for number, engine in enumerate(("job", "mpijob")):
            spec = real_compute(cluster.namespace, shared_base, splits, engine=engine, lease_s=600)
            request = make_request(shared_base, "train", model(workers=2)).model_copy(
                update={
                    # Of no consequence in three epochs, but for the fingerprint: neither finds the other's result.
                    "params": {"training": {"patience": 100 + number}},
                    "coordinates": Coordinates(dag_id="d", task_id=engine, run_id="r", task_instance="ti"),
                }
            )
            compute = KubernetesPods(spec, api)
            submitted[engine] = (compute, request, compute.submit(request, {}))
        yield submitted
