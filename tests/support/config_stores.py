"""What every store of a servers' config has to bear: the same tests for a file and for a ConfigMap."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.errors import ConfigHeld, LeaseLost
from airflow_ml.serving.targets.configuration import Configured, configured, models, parsed, with_label, with_versions
from airflow_ml.serving.targets.stores import Kept
from airflow_ml.serving.targets.writer import Writer

FOREIGN = (
    'config { name: "theirs" base_path: "/srv/theirs" model_platform: "tensorflow" '
    'model_version_policy { latest { num_versions: 3 } } version_labels { key: "gold" value: 7 } '
    'version_labels { key: "silver" value: 6 } }'
)


def put(store, text):
    """As somebody writes who knows nothing of leases."""
    before = store.read()
    return store.replace(before, text, before.lease)


def rollout(writer, model, old, new):
    """The changes of one rollout, which ends with the new version alone."""
    where = writer.store.where
    writer.change(with_versions(model, {old, new} - {0}, f"/models/{model}", where))
    writer.change(with_label(model, "canary", new, where))
    writer.change(with_label(model, "stable", new, where))
    writer.change(with_label(model, "canary", None, where))
    writer.change(with_versions(model, [new], f"/models/{model}", where))


def a_foreign_model_survives(store, rollouts=100):
    """Whatever its fields are, and those of a second model of ours."""
    put(store, f"model_config_list {{ {FOREIGN} }}")
    (theirs,) = parsed(store.read().text, "").model_config_list.config
    writer = Writer(store)
    rollout(writer, "other", 0, 4)
    for version in range(1, rollouts + 1):
        rollout(writer, "ours", version - 1, version)
    text = store.read().text
    assert configured(text, "ours", "") == Configured((rollouts,), {"stable": rollouts})
    assert configured(text, "other", "") == Configured((4,), {"stable": 4})
    assert parsed(text, "").model_config_list.config[0] == theirs
    assert models(text, "") == ["theirs", "other", "ours"]


def two_writers_lose_nothing(stores, rollouts=10):
    """Each has a store of its own, as two processes have."""

    def work(store, model):
        writer = Writer(store, patience_s=60)
        for version in range(1, rollouts + 1):
            rollout(writer, model, version - 1, version)

    threads = [threading.Thread(target=work, args=(store, f"m{n}")) for n, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = stores[0].read().text
    for n in range(len(stores)):
        assert configured(text, f"m{n}", "") == Configured((rollouts,), {"stable": rollouts})
    assert stores[0].read().lease is None


def a_corrupt_config_is_left_alone(store):
    put(store, "model_config_list { config {")
    before = store.read()
    with pytest.raises(ServingError, match="not a model server config"):
        Writer(store).change(with_versions("m", [1], "/models/m", store.where))
    assert store.read() == before


def a_lease_is_taken_over_only_when_it_has_expired(store):
    put(store, "model_config_list {\n}\n")
    now = [1000.0]
    began, go_on, result = threading.Event(), threading.Event(), []

    def slowly(text):
        if began.is_set():
            go_on.wait(30)
        began.set()
        return with_versions("slow", [1], "/models/slow", "")(text)

    def work():
        try:
            Writer(store, "slow one", lease_s=20, clock=lambda: now[0]).change(slowly)
        except ServingError as error:
            result.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 30
    while store.read().lease is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = Writer(store, "second", patience_s=0.3, clock=lambda: now[0])
    edit = with_versions("quick", [1], "/models/quick", "")
    with pytest.raises(ConfigHeld, match="slow one is changing it, for 20 s more"):
        second.change(edit)
    now[0] += 21
    second.change(edit)
    after = store.read()
    assert models(after.text, "") == ["quick"]
    go_on.set()
    thread.join(30)
    (lost,) = result
    assert isinstance(lost, LeaseLost)
    assert store.read() == after, "who lost its lease writes nothing"


def who_knows_no_lease_is_not_undone(store):
    """A person edits the config while we hold the lease: both changes are there."""
    put(store, "model_config_list {\n}\n")
    calls = []

    def edit(text):
        calls.append(text)
        if len(calls) == 2:  # the first look is before the lease
            put(store, f"model_config_list {{ {FOREIGN} }}")
        return with_versions("ours", [1], "/models/ours", "")(text)

    Writer(store).change(edit)
    assert models(store.read().text, "") == ["theirs", "ours"]
    assert store.read().lease is None


def _killed(make, arguments):
    def die(text):
        if writer.store.read().lease is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return with_versions("m", [1], "/models/m", "")(text)

    writer = Writer(make(*arguments), "killed", lease_s=1.5)
    writer.change(die)


def a_killed_writer_holds_up_the_next_until_its_lease_expires(make, *arguments):
    """Args: a function that makes the store, importable by a process, and what it takes."""
    store = make(*arguments)
    put(store, "model_config_list {\n}\n")
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(make, arguments))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    found = store.read()
    assert (found.lease.holder, models(found.text, "")) == ("killed", [])
    Writer(store, patience_s=30).change(with_versions("m", [1], "/models/m", ""))
    assert time.time() >= found.lease.expires
    after: Kept = store.read()
    assert (after.lease, models(after.text, "")) == (None, ["m"])
