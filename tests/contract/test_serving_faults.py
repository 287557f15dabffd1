"""What goes wrong with one version is nobody else's trouble: the others go on answering."""

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.client import connect
from airflow_ml.serving.deployment import ModelConfigFile, publish
from airflow_ml.serving.protos.messages import GetModelStatusRequest, PredictRequest
from airflow_ml.serving.protos.tensors import to_numpy, to_proto
from airflow_ml.serving.server import api, config
from airflow_ml.serving.server.__main__ import _poll_config
from airflow_ml.serving.server.core import Core, NotAvailable
from airflow_ml.serving.server.flags import Flags
from airflow_ml.serving.server.launch import base_flags
from airflow_ml.serving.server.loading import load
from airflow_ml.serving.server.rest_api import Rest
from airflow_ml.serving.server.status import Code, StatusError
from airflow_ml.serving.stopping import Stop
from tests.contract.conftest import WAIT
from tests.support.saved_models import SLOW_S, half_plus_two, slow
from tests.support.serving_waits import wait_available

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """``y = x / 2 + 2``."""
    return half_plus_two(tmp_path_factory.mktemp("two") / "saved_model")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """``y = x / 2 + 3``."""
    return half_plus_two(tmp_path_factory.mktemp("three") / "saved_model", 3.0)


@pytest.fixture
def served(tmp_path):
    """A core in this process, and its base folder; folders are looked at only when the test says so."""
    flags = Flags(file_system_poll_wait_seconds=0, max_num_load_retries=30, load_retry_interval_micros=50_000)
    core = Core(flags)
    yield core, tmp_path
    core.close()


def loads(core, *models, policy=""):
    entries = "".join(
        f'config {{ name: "{path.name}" base_path: "{path}" model_platform: "tensorflow" {policy} }}' for path in models
    )
    core.reload(config.parse(f"model_config_list {{ {entries} }}"), timeout=WAIT)


def refused(core, *models):
    with pytest.raises(StatusError, match=r"4 model\(s\) did not become available"):
        loads(core, *models)


def asked(core, model, version=None, x=2.0):
    request = PredictRequest()
    request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = version
    request.inputs["x"].CopyFrom(to_proto(np.array([x], dtype=np.float32)))
    with core.lend(request.model_spec) as servable:
        response = servable.predict(request)
    return float(to_numpy(response.outputs["y"])[0]), response.model_spec.version.value


def asks(core, model):
    try:
        return asked(core, model)[0]
    except StatusError:
        return None


def states(core, model):
    request = GetModelStatusRequest()
    request.model_spec.name = model
    found = api.get_model_status(core, request).model_version_status
    return {entry.version: (int(entry.state), int(entry.status.error_code)) for entry in found}


AVAILABLE, END = 30, 50


def eventually(check, timeout=60.0):
    end = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def test_a_corrupt_version_leaves_the_one_before(served, two):
    core, base = served
    publish(two, base, "m", 1)
    loads(core, base / "m")
    for number, ruin in enumerate((b"not a graph", b""), start=2):
        shutil.copytree(two, base / "m" / str(number))
        (base / "m" / str(number) / "saved_model.pb").write_bytes(ruin)
        core.poll()
        assert asked(core, "m") == (3.0, 1)
    with pytest.raises(StatusError) as missing:
        asked(core, "m", 3)
    assert missing.value.code is Code.NOT_FOUND
    assert states(core, "m")[1] == (AVAILABLE, 0)


def test_a_load_that_fails_has_tensorflows_own_code_and_words(served, two):
    core, folder = served
    for name in ("corrupt", "empty"):
        publish(two, folder, name, 1)
    (folder / "corrupt" / "1" / "saved_model.pb").write_bytes(b"not a graph")
    (folder / "empty" / "1" / "saved_model.pb").unlink()
    publish(two, folder, "weightless", 1)
    (folder / "weightless" / "1" / "variables" / "variables.data-00000-of-00001").unlink()
    with pytest.raises(NotAvailable) as failed:
        loads(core, folder / "corrupt", folder / "empty", folder / "weightless")
    says = str(failed.value)
    assert f"DATA_LOSS: Can't parse {folder}/corrupt/1/saved_model.pb as binary proto" in says
    assert "NOT_FOUND: Could not find SavedModel .pb or .pbtxt at supplied export directory path" in says
    assert "{{name: weightless version: 1} due to error: NOT_FOUND: " in says
    with pytest.raises(StatusError, match=r"matching supplied tags: \{ gpu serve \}"):
        load(two, 1, core.metrics, Flags(saved_model_tags="gpu,serve"))


def test_a_config_that_is_in_force_is_not_told_to_be_refused(served, two, tmp_path, caplog):
    core, folder = served
    publish(two, folder, "good", 1)
    publish(two, folder, "bad", 1)
    (folder / "bad" / "1" / "saved_model.pb").write_bytes(b"not a graph")
    file, stop = tmp_path / "models.config", Stop()

    def says(text, names):
        entries = [f'config {{ name: "{name}" base_path: "{folder / name}" {text} }}' for name in names]
        file.write_text(f"model_config_list {{ {' '.join(entries)} }}")

    says('model_platform: "tensorflow"', ["good"])
    flags = Flags(model_config_file=str(file), model_config_file_poll_wait_seconds=0.05)
    polling = threading.Thread(target=_poll_config, args=(core, flags, stop))
    polling.start()
    try:
        eventually(lambda: asks(core, "good") == 3.0)
        says('model_platform: "tensorflow"', ["good", "bad"])
        eventually(lambda: f"{file} is in force, but 1 model(s) did not become available" in caplog.text)
        assert "keeping the old config" not in caplog.text
        says("", ["good"])
        eventually(lambda: f"keeping the old config; {file} is refused" in caplog.text)
    finally:
        stop.set()
        polling.join()


def test_a_corrupt_version_does_not_hold_up_the_load_of_others(served, two, three):
    """Its attempts wait for each other, not in the way of anybody: there are more broken versions than loaders."""
    core, base = served
    for number in (1, 2, 3, 4):
        (base / f"broken{number}" / "1").mkdir(parents=True)
        (base / f"broken{number}" / "1" / "saved_model.pb").write_bytes(b"not a graph")
    publish(two, base, "m", 1)
    began = time.monotonic()
    models = [*(base / f"broken{n}" for n in (1, 2, 3, 4)), base / "m"]
    waiting = threading.Thread(target=refused, args=(core, *models), daemon=True)
    waiting.start()
    eventually(lambda: states(core, "m").get(1, (0, 0))[0] == AVAILABLE, 30)
    assert time.monotonic() - began < 30 * 0.05 * 4, "it waited for the broken ones"
    assert asked(core, "m") == (3.0, 1)
    waiting.join(WAIT)
    assert not waiting.is_alive()
    assert states(core, "broken1")[1][0] == END


def test_a_half_copied_version_is_served_when_it_is_complete(served, two, three):
    core, base = served
    publish(two, base, "m", 1)
    loads(core, base / "m")
    late = base / "m" / "2"
    late.mkdir()
    shutil.copy(three / "saved_model.pb", late)  # its variables are still on their way
    core.poll()
    time.sleep(0.3)
    assert asked(core, "m") == (3.0, 1)
    shutil.copytree(three / "variables", late / "variables")
    eventually(lambda: asked(core, "m") == (4.0, 2))
    core.poll()
    eventually(lambda: states(core, "m")[1][0] == END)
    assert asked(core, "m") == (4.0, 2)


def test_a_version_that_disappears_gives_way_to_what_is_there(served, two, three):
    core, base = served
    publish(two, base, "m", 1)
    publish(three, base, "m", 2)
    publish(two, base, "other", 5)
    loads(core, base / "m", base / "other")
    assert asked(core, "m") == (4.0, 2)
    shutil.rmtree(base / "m" / "2")
    assert asked(core, "m") == (4.0, 2), "what is in memory needs no folder"
    core.poll()  # the one before is loaded first
    assert asked(core, "m")[1] in (1, 2)
    eventually(lambda: states(core, "m").get(1, (0, 0))[0] == AVAILABLE)
    core.poll()
    eventually(lambda: asked(core, "m") == (3.0, 1))
    assert asked(core, "other") == (3.0, 5)


def test_two_hundred_versions_in_a_folder(served, two):
    core, base = served
    publish(two, base, "m", 1)
    for number in range(2, 201):
        (base / "m" / str(number)).symlink_to(base / "m" / "1")
    loads(core, base / "m")
    assert asked(core, "m") == (3.0, 200)
    began = time.perf_counter()
    core.poll()
    assert time.perf_counter() - began < 0.5
    loads(core, base / "m", policy="model_version_policy { specific { versions: 7 versions: 200 } }")
    core.poll()
    eventually(lambda: states(core, "m").get(7, (0, 0))[0] == AVAILABLE)
    assert asked(core, "m", 7) == (3.0, 7)
    assert set(states(core, "m")) == {7, 200}


def test_a_slow_model_holds_up_nobody(server):
    """More requests than it has threads, and the quick ones beside it are answered as ever."""
    results = []

    def ask(n):
        with connect(server.grpc, deadline=30) as client:
            results.append(client.predict("slow", {"x": [float(n)]}).outputs["y"][0])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
    with server.connect() as client, server.connect("rest") as rest:
        for _ in range(5):
            client.predict("half", {"x": [2.0]})
        began = time.monotonic()
        for thread in threads:
            thread.start()
        times = []
        while any(thread.is_alive() for thread in threads):
            for asker in (client, rest):
                one = time.monotonic()
                asker.predict("half", {"x": [2.0]})
                times.append(time.monotonic() - one)
        took = time.monotonic() - began
    for thread in threads:
        thread.join()
    assert sorted(results) == [float(n) for n in range(16)]
    assert took >= SLOW_S
    assert sorted(times)[len(times) // 2] < SLOW_S / 8


def test_a_rest_request_has_its_time(served, tmp_path):
    core, base = served
    publish(slow(tmp_path / "made"), base, "slow", 1)
    loads(core, base / "slow")
    began = time.monotonic()
    with pytest.raises(StatusError, match="Timed out") as late:
        Rest(core, timeout=0.2).respond("POST", "/v1/models/slow:predict", b'{"instances": [1.0]}')
    assert late.value.code is Code.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 0.8 * SLOW_S


def test_killed_and_started_again_under_load(tmp_path, two, three):
    """Clients that try again see their server come back; no answer in between is wrong."""
    base = tmp_path / "serving"
    served = ModelConfigFile(base)
    for version, path in ((1, two), (2, three)):
        publish(path, base, "m", version)
    served.ensure_versions("m", [1, 2])
    served.set_label("m", "stable", 1)

    log = tmp_path / "server.log"
    first = Server(base, log)
    port = first.port
    stop, answers, gone = threading.Event(), [], []

    def load():
        with connect(f"grpc://127.0.0.1:{port}", deadline=2) as client:
            while not stop.is_set():
                try:
                    answers.append(
                        (time.monotonic(), float(client.predict("m", {"x": [2.0]}, label="stable").outputs["y"][0]))
                    )
                except ServingError as error:
                    gone.append(error)
                    time.sleep(0.05)

    try:
        with connect(f"grpc://127.0.0.1:{port}") as client:
            wait_available(client, "m", 2, WAIT)
        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(answers) > 50)
        first.process.kill()
        first.process.wait()
        killed = time.monotonic()
        second = Server(base, log, port)
        try:
            eventually(lambda: bool(answers) and answers[-1][0] > killed + 0.5, WAIT)
            stop.set()
            for thread in threads:
                thread.join()
        finally:
            second.end()
    finally:
        stop.set()
        first.end()
    assert {value for _, value in answers} == {3.0}
    assert gone, "while it was away, callers were told so"


class Server:
    """A server process of a base, on a port that stays."""

    def __init__(self, base: Path, log: Path, port: int = 0):
        command = [sys.executable, "-m", "airflow_ml.serving.server", f"--port={port}", *base_flags(base)]
        self.process = subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT)
        eventually(lambda: "ready: grpc" in log.read_text() or self.process.poll() is not None, WAIT)
        ready = log.read_text().partition("ready: grpc ")[2].split()
        assert ready, log.read_text()
        self.port = int(ready[0].rpartition(":")[2])

    def end(self):
        self.process.kill()
        self.process.wait()
