"""Servers that are told by the reload RPC, over real gRPC: all or none, in turn, and never a model of others lost."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from airflow_ml.lifecycle.errors import ServingError, SpecError
from airflow_ml.serving.connections import Handed
from airflow_ml.serving.errors import LeaseLost, ReplicasBehind, ServerUnreachable
from airflow_ml.serving.targets.configuration import Configured, models, parsed
from airflow_ml.serving.targets.opening import open_servers
from airflow_ml.serving.targets.reloading import Reloading
from airflow_ml.serving.targets.replicas import Replicas
from airflow_ml.serving.targets.servers import ModelServers
from airflow_ml.serving.targets.shelves import FolderShelf
from airflow_ml.serving.targets.stores import FileStore
from airflow_ml.serving.targets.writer import Writer
from airflow_ml.spec import Platform, Reload, ServingTarget
from tests.support.config_stores import FOREIGN, put
from tests.support.plain_servers import plain_servers


@pytest.fixture
def plain():
    with plain_servers(2) as servers:
        yield servers


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "serving"
    put(FileStore(found), f"model_config_list {{ {FOREIGN} }}")
    return found


@pytest.fixture
def servers(folder, plain):
    """Told by RPC; versions 1 to 100 are published."""
    for version in range(1, 101):
        (folder / "m" / str(version)).mkdir(parents=True)
    target = ServingTarget(config=Reload(), replicas=tuple(each.address.removeprefix("grpc://") for each in plain))
    with open_servers(Platform(base=str(folder.parent), serving=target), {}) as found:
        yield found


def test_a_foreign_model_and_its_labels_survive_100_rollouts(servers, plain, folder):
    (theirs,) = parsed(f"model_config_list {{ {FOREIGN} }}", "").model_config_list.config
    for version in range(1, 101):
        servers.serve("m", {version - 1, version} - {0})
        servers.wait_available("m", version, 5)
        servers.label("m", "stable", version)
        servers.serve("m", [version])
    servers.wait_label("m", "stable", 100, 5)
    assert servers.configured("m") == Configured((100,), {"stable": 100})
    for each in plain:
        assert each.entry("theirs") == theirs
        assert dict(each.entry("m").version_labels) == {"stable": 100}
        assert each.told == 300


def test_without_a_record_nothing_is_sent(servers, plain, folder):
    (folder / "models.config").unlink()
    with pytest.raises(ServingError, match="no record of what the servers serve") as refused:
        servers.serve("m", [1])
    assert "model_config_list {}" in refused.value.remedy
    assert [each.told for each in plain] == [0, 0]


def test_a_replica_that_lags_or_is_gone_is_named_and_no_label_moves(servers, plain, folder):
    servers.serve("m", [1])
    servers.label("m", "stable", 1)
    plain[1].lagging = True
    servers.serve("m", [1, 2])
    with pytest.raises(ReplicasBehind) as behind:
        servers.wait_available("m", 2, 0.3)
    assert f"{plain[1].address}: it is LOADING there" in behind.value.what
    assert plain[0].address not in behind.value.what
    plain[1].stop()
    with pytest.raises(ReplicasBehind, match="does not answer") as gone:
        servers.label("m", "stable", 2)
    assert plain[1].address in gone.value.what
    assert servers.configured("m").labels == {"stable": 1}
    assert dict(plain[0].entry("m").version_labels) == {"stable": 1}
    with pytest.raises(ServerUnreachable, match="model servers do not answer: " + plain[1].address):
        servers.require()
    plain[1].lagging = False
    plain[1].start()


def test_on_the_way_back_a_dead_replica_holds_nothing_up(servers, plain):
    servers.serve("m", [1, 2])
    servers.label("m", "stable", 2)
    plain[1].stop()
    servers.label("m", "stable", 1, way_back=True)
    servers.wait_label("m", "stable", 1, 5, way_back=True)
    plain[1].start()
    with pytest.raises(ReplicasBehind, match="Could not find it"):  # it answers, and has nothing
        servers.label("m", "stable", 2, way_back=True)


def test_a_replica_that_was_started_again_is_told_again(servers, plain, monkeypatch):
    monkeypatch.setattr("airflow_ml.serving.targets.servers._AGAIN_S", 0.5)
    servers.serve("m", [1])
    servers.label("m", "stable", 1)
    plain[0].stop()
    plain[0].start()
    assert plain[0].config is None
    servers.wait_available("m", 1, 10)
    assert {entry.name for entry in plain[0].config.model_config_list.config} == {"theirs", "m"}


def test_a_config_that_one_server_refuses_is_taken_back_from_all(servers, plain, folder):
    servers.serve("m", [1])
    before = (folder / "models.config").read_text()
    plain[1].before_reload = lambda config: setattr(
        plain[1], "refuses", "no room" if "versions: 2" in str(config) else ""
    )
    with pytest.raises(ServingError, match=f"refuse the config: {plain[1].address}: no room"):
        servers.serve("m", [1, 2])
    assert (folder / "models.config").read_text() == before
    for each in plain:
        assert list(each.entry("m").model_version_policy.specific.versions) == [1]
    assert FileStore(folder).read().lease is None


def test_who_loses_the_lease_sends_nothing_more(folder, plain):
    """The first server takes its time, and meanwhile another writer takes over."""
    now = [1000.0]
    replicas = Replicas([each.address for each in plain])
    writer = Writer(FileStore(folder), lease_s=20, clock=lambda: now[0])
    (folder / "m" / "1").mkdir(parents=True)
    with ModelServers(FolderShelf(folder), writer, replicas, Reloading(replicas, "")) as servers:
        plain[0].before_reload = lambda _: now.__setitem__(0, now[0] + 30)
        with pytest.raises(LeaseLost):
            servers.serve("m", [1])
    assert [each.told for each in plain] == [1, 0]
    plain[0].before_reload = lambda _: None
    replicas = Replicas([each.address for each in plain])
    with ModelServers(FolderShelf(folder), Writer(FileStore(folder)), replicas, Reloading(replicas, "")) as again:
        again.serve("m", [1])
        again.wait_available("m", 1, 5)
    assert models((folder / "models.config").read_text(), "") == ["theirs", "m"]


def _dies_before_effect(folder, addresses, number):
    """A rollout of version 2 in a process that is killed before it does a thing that others can see."""
    left = [number]

    def counted(work):
        def do(*arguments):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return work(*arguments)

        return do

    store, replicas = FileStore(Path(folder)), Replicas(addresses)
    store.replace, replicas.reload = counted(store.replace), counted(replicas.reload)
    with ModelServers(
        FolderShelf(Path(folder)), Writer(store, lease_s=1), replicas, Reloading(replicas, store.where)
    ) as servers:
        to_version_2(servers)


def to_version_2(servers):
    servers.serve("m", [1, 2])
    servers.wait_available("m", 2, 10)
    servers.label("m", "stable", 2)
    servers.wait_label("m", "stable", 2, 10)
    servers.serve("m", [2])


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (4, [{1, 2}, {1}]),  # one of them was told
        (6, [{1, 2}, {1, 2}]),  # between the write and the label
        (8, [{1, 2}, {1, 2}]),  # the label is in the record, and nobody was told
    ],
)
def test_killed_anywhere_it_is_done_again_and_ends_right(servers, plain, folder, number, told):
    servers.serve("m", [1])
    servers.label("m", "stable", 1)
    addresses = [each.address for each in plain]
    process = multiprocessing.get_context("spawn").Process(
        target=_dies_before_effect, args=(str(folder), addresses, number)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    for each, versions in zip(plain, told, strict=True):
        assert set(each.entry("m").model_version_policy.specific.versions) == versions
        assert dict(each.entry("m").version_labels) == {"stable": 1}
        assert each.entry("theirs") is not None
    to_version_2(servers)
    for each in plain:
        assert set(each.entry("m").model_version_policy.specific.versions) == {2}
        assert dict(each.entry("m").version_labels) == {"stable": 2}
    assert FileStore(folder).read().lease is None


def test_the_connection_says_how_replicas_are_reached(tmp_path):
    """Its token goes with every call, and what it lacks is told before anything is asked."""
    with_id = ServingTarget(conn_id="tf serving", replicas=("127.0.0.1:1",))
    platform = Platform(base=str(tmp_path), serving=with_id)
    with pytest.raises(SpecError, match="connection tf serving: the connection that the serving target names was not"):
        open_servers(platform, {})
    web = Handed("tf serving", "h", 8501, {"protocol": "http"}).to_environment()
    with pytest.raises(SpecError, match="model servers are driven over gRPC"):
        open_servers(platform, web)
    secret = Handed("tf serving", "h", 8500, {"tls": True}, "s3cret").to_environment()
    assert secret["AIRFLOW_ML_CONN_TF_SERVING_PASSWORD"] == "s3cret"
    assert "s3cret" not in secret["AIRFLOW_ML_CONN_TF_SERVING"]
    with open_servers(platform, secret) as servers:
        assert servers.replicas == ("grpcs://127.0.0.1:1",)


def test_a_name_stands_for_all_its_addresses(tmp_path):
    platform = Platform(base=str(tmp_path), serving=ServingTarget(replicas=("dns:localhost:8500",)))
    with open_servers(platform, {}) as servers:
        assert "grpc://127.0.0.1:8500" in servers.replicas
    nowhere = ServingTarget(replicas=("dns:no-such-name.invalid:8500",))
    with pytest.raises(ServingError, match="the name has no address"):
        open_servers(Platform(base=str(tmp_path), serving=nowhere), {})


def test_servers_come_and_go(plain):
    """As the addresses of a headless Service; while the name is not resolved, those hold that were there."""
    there = [plain[0].address]

    def find():
        if not there:
            raise ServingError("the name has no address")
        return there

    with Replicas(find) as replicas:
        assert replicas.silent() == ()
        plain[0].stop()
        assert [lag.replica for lag in replicas.silent()] == [plain[0].address]
        there[:] = [plain[1].address]
        assert (replicas.silent(), replicas.addresses) == ((), (plain[1].address,))
        there.clear()
        assert (replicas.silent(), replicas.addresses) == ((), (plain[1].address,))
    plain[0].start()


def test_versions_that_servers_see_elsewhere(tmp_path, plain):
    target = ServingTarget(seen_as="/models", replicas=(plain[0].address.removeprefix("grpc://"),))
    made = tmp_path / "made"
    made.mkdir()
    (made / "saved_model.pb").write_bytes(b"graph")
    with open_servers(Platform(base=str(tmp_path), serving=target), {}) as servers:
        assert servers.publish(made, "m", 1) == str(tmp_path / "serving" / "m" / "1")
        servers.serve("m", [1])
    text = Path(tmp_path / "serving" / "models.config").read_text()
    assert parsed(text, "").model_config_list.config[0].base_path == "/models/m"
