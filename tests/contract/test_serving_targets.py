"""Rollouts through real servers: one that polls a file, one that is told by the reload RPC."""

import os
import signal
import time
from contextlib import ExitStack

import pytest
import requests

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.errors import ReplicasBehind
from airflow_ml.serving.sandbox import model_server
from airflow_ml.serving.targets.configuration import EMPTY, Configured
from airflow_ml.serving.targets.opening import open_servers
from airflow_ml.spec import Platform, Reload, ServingTarget
from tests.contract.conftest import WAIT
from tests.support.kube_manifests import one
from tests.support.saved_models import half_plus_two

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """``y = x / 2 + 2``."""
    return half_plus_two(tmp_path_factory.mktemp("two") / "saved_model")


@pytest.fixture(scope="module")
def real(tmp_path_factory, two):
    """Two servers; the first polls its config file, the second is told by RPC only."""
    with ExitStack() as stack:
        found = []
        for poll in (1, 0):
            base = tmp_path_factory.mktemp("base")
            (base / "serving").mkdir()
            (base / "serving" / "models.config").write_text(EMPTY)
            flags = [f"--model_config_file_poll_wait_seconds={poll}"]
            found.append((base, stack.enter_context(model_server(base / "serving", timeout=WAIT, flags=flags))))
        yield found


def opened(real, which, *replicas, **target):
    target = ServingTarget(replicas=tuple(real[n][1].grpc.removeprefix("grpc://") for n in replicas), **target)
    return open_servers(Platform(base=str(real[which][0]), serving=target), {})


def a_rollout(servers, saved_model):
    for version in (1, 2):
        servers.publish(saved_model, "m", version)
    servers.serve("m", [1])
    servers.wait_available("m", 1, WAIT)
    servers.label("m", "stable", 1)
    servers.serve("m", [1, 2])
    servers.wait_available("m", 2, WAIT)
    servers.label("m", "canary", 2)
    servers.wait_label("m", "canary", 2, WAIT)
    servers.wait_label("m", "stable", 1, WAIT)
    servers.label("m", "stable", 2)
    servers.label("m", "canary", None)
    servers.wait_label("m", "stable", 2, WAIT)
    servers.wait_label("m", "canary", None, WAIT)
    servers.serve("m", [2])
    assert servers.configured("m") == Configured((2,), {"stable": 2})
    (replica,) = servers.replicas
    with servers.connect(replica) as client:
        assert client.predict("m", {"x": [2.0]}, label="stable").version == 2


def ready(real):
    """What the readiness probe of the manifest is answered."""
    (server,) = [
        each
        for each in one("tf-serving.yaml", "Deployment")["spec"]["template"]["spec"]["containers"]
        if each["name"] == "server"
    ]
    path = server["readinessProbe"]["httpGet"]["path"].replace("/flights/", "/m/")
    return requests.get(f"{real[0][1].rest}{path}", timeout=10).status_code


def test_a_rollout_by_a_file(real, two):
    """And the servers are ready in Kubernetes' sense while `stable` has a version that is loaded, and not before."""
    with opened(real, 0, 0) as servers:
        assert ready(real) == 400
        servers.publish(two, "m", 1)
        servers.serve("m", [1])
        servers.wait_available("m", 1, WAIT)
        assert ready(real) == 400
        a_rollout(servers, two)
        assert ready(real) == 200
        servers.label("m", "stable", None)
        servers.wait_label("m", "stable", None, WAIT)
        assert ready(real) == 400
        servers.label("m", "stable", 2)
        servers.wait_label("m", "stable", 2, WAIT)


def test_a_rollout_by_the_reload_rpc_leaves_others_alone(real, two):
    with opened(real, 1, 1, config=Reload()) as servers:
        servers.publish(two, "theirs", 7)
        servers.serve("theirs", [7])
        servers.wait_available("theirs", 7, WAIT)
        servers.label("theirs", "gold", 7)
        a_rollout(servers, two)
        (replica,) = servers.replicas
        with servers.connect(replica) as client:
            assert client.predict("theirs", {"x": [2.0]}, label="gold").version == 7
        servers.serve("m", [])
        assert servers.configured("m") == Configured()


def test_a_version_that_does_not_load_is_told_with_the_servers_words(real, two):
    """A server refuses a config with a new model that does not load; of one that it has, it says so when asked."""
    with opened(real, 1, 1, config=Reload()) as servers:
        for model, version in (("theirs", 7), ("theirs", 8), ("broken", 1)):
            servers.publish(two, model, version)
        for folder in ("theirs/8", "broken/1"):
            (real[1][0] / "serving" / folder / "saved_model.pb").write_bytes(b"no graph")
        with pytest.raises(ServingError, match=r"servers refuse the config: grpc://.*did not become available"):
            servers.serve("broken", [1])
        assert servers.configured("broken") == Configured()
        servers.serve("theirs", [7, 8])
        with pytest.raises(ServingError, match=r"given up: grpc://.*could not load it: DATA_LOSS ") as caught:
            servers.wait_available("theirs", 8, WAIT)
        assert not isinstance(caught.value, ReplicasBehind)
        with pytest.raises(ReplicasBehind, match="not AVAILABLE on every replica"):
            servers.label("theirs", "stable", 8)
        assert servers.configured("theirs").labels == {"gold": 7}
        (replica,) = servers.replicas
        with servers.connect(replica) as client:
            assert client.predict("theirs", {"x": [2.0]}, label="gold").version == 7


def test_a_version_that_failed_once_and_was_mended_is_loaded_at_once(real, two):
    """The server goes on saying that it failed until it has read its file again, a second later."""
    with opened(real, 0, 0) as servers:
        for version in (1, 2):
            servers.publish(two, "mended", version)
        graph = real[0][0] / "serving" / "mended" / "2" / "saved_model.pb"
        content = graph.read_bytes()
        graph.write_bytes(b"no graph")
        servers.serve("mended", [1, 2])
        with pytest.raises(ServingError, match="given up"):
            servers.wait_available("mended", 2, WAIT)
        servers.serve("mended", [1])
        servers.wait_available("mended", 1, WAIT)
        time.sleep(2.5)
        (lag,) = servers.lagging("mended", 2)
        assert lag.hopeless, "it remembers"
        graph.write_bytes(content)
        servers.serve("mended", [1, 2])
        servers.wait_available("mended", 2, WAIT)
        servers.serve("mended", [])


def test_a_server_that_lags_and_one_that_dies_are_named_and_no_label_moves(real, two):
    """The second server does not poll the file of the first; it is told when somebody sends it the same."""
    lagging = real[1][1].grpc
    with opened(real, 0, 0, 1) as servers:
        servers.publish(two, "m", 3)
        servers.serve("m", [2, 3])
        with pytest.raises(ReplicasBehind) as behind:
            servers.wait_available("m", 3, 2)
        assert lagging in behind.value.what
        assert real[0][1].grpc not in behind.value.what
        with pytest.raises(ReplicasBehind, match="not AVAILABLE"):
            servers.label("m", "stable", 3)
        assert servers.configured("m") == Configured((2, 3), {"stable": 2})
        os.kill(real[1][1].pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(ReplicasBehind, match=f"{lagging}: it does not answer"):
            servers.wait_available("m", 3, 1)
        with pytest.raises(ReplicasBehind, match=f"{lagging}: it does not answer"):
            servers.label("m", "stable", 3)
        assert time.monotonic() - began < 10
        assert servers.configured("m").labels == {"stable": 2}
        servers.label("m", "stable", 3, way_back=True)
        servers.wait_label("m", "stable", 3, WAIT, way_back=True)
