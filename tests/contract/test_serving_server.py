"""The local model server, as a real process: asked by our clients, by Google's own stubs, and by plain HTTP."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import requests
from google.protobuf import text_format

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.client import connect
from airflow_ml.serving.deployment import ModelConfigFile, publish
from airflow_ml.serving.errors import ModelNotServed, RequestRefused
from airflow_ml.serving.probe import measure_latency, probe
from airflow_ml.serving.protos.messages import ModelServerConfig
from airflow_ml.serving.sandbox import model_server
from tests.contract.conftest import WAIT
from tests.support.serving_waits import wait_available, wait_label

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=["grpc", "rest"])
def client(server, request):
    with server.connect(request.param) as connected:
        yield connected


@pytest.fixture
def ask(exported):
    """The first golden request and its answer."""
    golden = exported.golden[0]
    return golden.columns(), np.array(golden.probability, dtype=np.float32)


# --- one model, both protocols -------------------------------------------------------------------------------------


def test_golden_requests_get_their_numbers(client, exported):
    report = probe(client, exported.golden, "m", 3, tolerance=1e-6)
    assert report.ok, report.failures
    assert report.requests == len(exported.golden) == report.latency.requests
    wrong = [g.model_copy(update={"probability": [p + 0.01 for p in g.probability]}) for g in exported.golden]
    report = probe(client, wrong, "m", 3)
    assert not report.ok
    assert report.max_abs_diff == pytest.approx(0.01, abs=1e-6)
    assert not probe(client, [], "m", 3).ok
    assert not probe(client, exported.golden[:1], "m", 4).ok


def test_latency_is_measured(client, exported):
    latency = measure_latency(client, exported.golden, "m", 3, requests=20)
    assert 0 < latency.p50_ms <= latency.p99_ms
    assert latency.requests == 20


@pytest.mark.parametrize(
    ("says", "changes"),
    [
        (r"input size does not match signature: 3!=4 .*Missing but required: \{wind\}", {"wind": None}),
        (r"(arg\[3\] to be float but string is|Type: String is not of expected type: float)",
         {"wind": np.array(["a"] * 8, dtype=object)}),
        ("Shapes of all inputs must match", {"wind": np.zeros(3, dtype=np.float32)}),
        ("Shapes of all inputs must match", {"wind": np.zeros((8, 1), dtype=np.float32)}),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_tf_servings_words(client, ask, says, changes):
    columns = {name: column for name, column in (ask[0] | changes).items() if column is not None}
    if client.address.startswith("http"):
        says = says if "input size" not in says else "Missing named input: wind in 'inputs' object."
    with pytest.raises(RequestRefused, match=says) as raised:
        client.predict("m", columns)
    assert raised.value.where == f"{client.address} model m"
    assert raised.value.remedy


# --- the reference client ------------------------------------------------------------------------------------------


def test_googles_own_stubs_are_answered(server, ask):
    from airflow_ml.serving.engines import tensorflow

    tf = tensorflow()
    import grpc
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    with grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "m"
        for name, column in ask[0].items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(column))
        response = stub.Predict(request, timeout=10)
        assert len(response.outputs["probability"].float_val) == 8, (
            "numbers in typed fields, as the real one sends them"
        )
        assert response.model_spec.version.value == 3
        assert response.model_spec.signature_name == "serving_default"
        np.testing.assert_allclose(tf.make_ndarray(response.outputs["probability"]), ask[1], atol=1e-6)

        for changed, code, says in [
            (
                {"signature_name": "nope"},
                grpc.StatusCode.FAILED_PRECONDITION,
                'Serving signature key "nope" not found.',
            ),
            ({"name": ""}, grpc.StatusCode.INVALID_ARGUMENT, "no name"),
            ({"name": "nobody"}, grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(nobody)"),
        ]:
            wrong = predict_pb2.PredictRequest()
            wrong.CopyFrom(request)
            for field, value in changed.items():
                setattr(wrong.model_spec, field, value)
            with pytest.raises(grpc.RpcError) as refused:
                stub.Predict(wrong, timeout=10)
            assert (refused.value.code(), says in refused.value.details()) == (code, True)
        request.output_filter.append("nope")
        with pytest.raises(grpc.RpcError) as refused:
            stub.Predict(request, timeout=10)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT

        asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        asked.model_spec.name = "m"
        signatures = get_model_metadata_pb2.SignatureDefMap()
        stub.GetModelMetadata(asked, timeout=10).metadata["signature_def"].Unpack(signatures)
        assert set(signatures.signature_def["serving_default"].inputs) == set(ask[0])

        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "m"
        answer = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status, timeout=10)
        assert answer.model_version_status[0].state == get_model_status_pb2.ModelVersionStatus.AVAILABLE


# --- plain HTTP ----------------------------------------------------------------------------------------------------


def rows_of(columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]


def test_rows_and_columns_over_http(server, ask):
    columns = {"carrier": ["AA", "nobody", ""], "hour": [1, 2, 99], "distance": [1, 2.5, 3], "wind": [1, 2, 3]}
    url = f"{server.rest}/v1/models/m"
    by_column = requests.post(f"{url}:predict", json={"inputs": columns}, timeout=10)
    assert by_column.headers["content-type"] == "application/json"
    arrays = {name: np.array(values, dtype=object) for name, values in columns.items()}
    by_row = requests.post(f"{url}/versions/3:predict", json={"instances": rows_of(arrays)}, timeout=10)
    assert by_row.json()["predictions"] == by_column.json()["outputs"]
    assert len(by_row.json()["predictions"]) == 3
    missing = json.dumps({"inputs": columns | {"wind": [float("nan")] * 3}})  # NaN, as TF Serving reads it
    assert requests.post(f"{url}:predict", data=missing, timeout=10).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/models/m:predict", b"{", 400),
        ("POST", "/v1/models/m:predict", b"", 400),
        ("POST", "/v1/models/m:predict", b"{}", 400),
        ("POST", "/v1/models/m:predict", b'{"signature_name": "x", "inputs": {}}', 400),
        ("POST", "/v1/models/m:predict", b'{"instances": [{"carrier": "AA"}]}', 400),
        ("POST", "/v1/models/nobody:predict", b'{"inputs": {}}', 404),
        ("POST", "/v1/models/m/versions/9:predict", b'{"inputs": {}}', 404),
        ("POST", "/v1/models/m/labels/x:predict", b'{"inputs": {}}', 400),
        ("POST", "/v1/models/m/versions/99999999999999999999:predict", b'{"inputs": {}}', 400),
        ("POST", "/v1/models/m:classify", b"{}", 400),
        ("POST", "/v1/models/m:regress", b'{"examples": [{"x": 1.0}]}', 400),
        ("POST", "/v1/models/m", b"{}", 400),
        ("GET", "/v1/models/m:predict", None, 400),
        ("GET", "/v1/models/nobody", None, 404),
        ("GET", "/v1/models/nobody/metadata", None, 404),
        ("GET", "/v1/models/m/labels/x/metadata", None, 400),
        ("PUT", "/v1/models/m:predict", b'{"inputs": {}}', 400),
        ("DELETE", "/v1/models/m", None, 400),
        ("OPTIONS", "/v1/models/m:predict", None, 400),
        ("POST", "/v1/models/m:predict", b'{"signature_name": "\\ud800", "inputs": {}}', 400),
        ("POST", "/v1/models/m:predict", b'{"inputs": {"carrier": ["\xed\xa0\x80"]}}', 400),
        ("GET", "/v1/models", None, 400),
    ],
)
def test_http_errors_are_json_with_tf_servings_status(server, method, path, body, status):
    answer = requests.request(method, server.rest + path, data=body, timeout=10)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_a_method_that_is_none_here(server):
    answer = requests.put(f"{server.rest}/v1/models/m:predict", data=b"{}", timeout=10)
    assert answer.json() == {"error": "Malformed request: PUT /v1/models/m:predict"}
    answer = requests.head(f"{server.rest}/v1/models/m", timeout=10)
    assert (answer.status_code, answer.content) == (400, b"")


def test_outputs_of_no_values_have_their_shape(server):
    url = f"{server.rest}/v1/models/kinds:predict"
    assert requests.post(url, json={"instances": [[]]}, timeout=10).json() == {"predictions": [[]]}
    assert requests.post(url, json={"inputs": [[], []]}, timeout=10).json() == {"outputs": [[], []]}


def test_a_label_is_not_heeded_in_a_question_for_states(server):
    """As TF Serving's own source has it."""
    answer = requests.get(f"{server.rest}/v1/models/m/labels/nobody", timeout=10)
    assert [entry["version"] for entry in answer.json()["model_version_status"]] == ["3"]


def test_what_is_not_the_api_is_not_found(server):
    assert requests.get(f"{server.rest}/", timeout=10).status_code == 404


def test_status_and_metadata_as_json(server):
    status = requests.get(f"{server.rest}/v1/models/m/versions/3", timeout=10).json()
    assert status == {
        "model_version_status": [
            {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    metadata = requests.get(f"{server.rest}/v1/models/m/metadata", timeout=10).json()
    assert metadata["model_spec"]["version"] == "3"
    assert (
        metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["hour"]["dtype"]
        == "DT_INT64"
    )


# --- releases ------------------------------------------------------------------------------------------------------


def answers(client, made, **target) -> bool:
    """Whether the first golden request gets this model's numbers."""
    golden = made.golden[0]
    try:
        found = client.predict("m", golden.columns(), **target).probability
    except ServingError:
        return False
    return bool(np.abs(found - np.array(golden.probability)).max() < 1e-5)


def eventually(check, timeout=30.0):
    end = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)


def test_a_rollout_from_the_first_version_to_the_second(tmp_path, exported, other):
    base = tmp_path / "serving"
    config = ModelConfigFile(base)
    config.create()
    with model_server(base, timeout=WAIT) as running, running.connect() as client:
        # the first release
        publish(exported.path, base, "m", 1)
        config.ensure_versions("m", [1])
        wait_available(client, "m", 1, WAIT)
        config.set_label("m", "stable", 1)
        wait_label(client, "m", "stable", 1, WAIT)
        assert answers(client, exported, label="stable")

        # the second beside it: nobody notices until the label moves
        publish(other.path, base, "m", 2)
        config.ensure_versions("m", [1, 2])
        wait_available(client, "m", 2, WAIT)
        assert answers(client, exported, label="stable")
        assert answers(client, other, version=2)
        assert answers(client, other)  # no version asked: the newest
        config.set_label("m", "stable", 2)
        wait_label(client, "m", "stable", 2, WAIT)
        assert answers(client, other, label="stable")
        config.ensure_versions("m", [2])
        eventually(lambda: {s.version: s.state for s in client.status("m")} == {1: "END", 2: "AVAILABLE"})
        with pytest.raises(ModelNotServed):
            client.predict("m", exported.golden[0].columns(), version=1)

        # back again: the first is loaded anew
        config.ensure_versions("m", [1, 2])
        wait_available(client, "m", 1, WAIT)
        config.set_label("m", "stable", 1)
        wait_label(client, "m", "stable", 1, WAIT)
        assert answers(client, exported, label="stable")

        # a version that cannot be loaded, one that is half copied, and a config that is broken: nobody notices
        shutil.copytree(exported.path, base / "m" / "3")
        (base / "m" / "3" / "saved_model.pb").write_bytes(b"not a graph")
        shutil.copytree(exported.path, base / "m" / ".staging-4")
        config.ensure_versions("m", [1, 2, 3])
        with pytest.raises(ServingError, match="could not load it"):
            wait_available(client, "m", 3, WAIT)
        assert answers(client, exported, label="stable")
        config.path.write_text("model_config_list { config {")
        eventually(lambda: "keeping the old config" in running.log.read_text())
        assert answers(client, exported, label="stable")

        # a reload over gRPC replaces all, and refuses a label of what is not there
        refused = reload_text(base, 'version_labels { key: "stable" value: 9 }')
        with pytest.raises(RequestRefused, match="not currently available for inference"):
            client.reload(refused)
        assert answers(client, exported, label="stable")
        client.reload(reload_text(base, 'version_labels { key: "canary" value: 2 }'))
        assert answers(client, other, label="canary")
        with pytest.raises(RequestRefused, match="Unrecognized servable version label"):
            client.predict("m", exported.golden[0].columns(), label="stable")

    # a server that starts with labels in its config finds them
    config.path.write_text(text_format.MessageToString(reload_text(base, 'version_labels { key: "stable" value: 2 }')))
    with model_server(base, timeout=WAIT) as running, running.connect("rest") as client:
        wait_available(client, "m", 2, WAIT)  # a server is ready when one version of each model is
        assert answers(client, other, label="stable")


def reload_text(base: Path, labels: str):
    text = (
        f'model_config_list {{ config {{ name: "m" base_path: "{base}/m" model_platform: "tensorflow" '
        f"model_version_policy {{ specific {{ versions: 1 versions: 2 }} }} {labels} }} }}"
    )
    return text_format.Parse(text, ModelServerConfig())


def test_the_newest_version_is_followed_without_a_gap(tmp_path, exported, other):
    base = tmp_path / "base"
    publish(exported.path, base, "m", 1)
    flags = [f"--model_base_path={base / 'm'}", "--model_name=m", "--file_system_poll_wait_seconds=0.2"]
    with Started(tmp_path, flags) as (process, grpc_address), connect(grpc_address) as client:
        failures = 0
        publish(other.path, base, "m", 2)
        end = time.monotonic() + 60
        while not answers(client, other) and time.monotonic() < end:
            failures += not (answers(client, exported) or answers(client, other))
        assert answers(client, other)
        assert failures == 0
        shutil.rmtree(base / "m" / "2")
        eventually(lambda: answers(client, exported))
        for _ in range(100):  # a second signal while the first is handled
            process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0


class Started:
    """The server by its own command line, without the sandbox."""

    def __init__(self, folder: Path, flags: list[str]):
        self.log = folder / "server.log"
        command = [sys.executable, "-m", "airflow_ml.serving.server", "--port=0", *flags]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def __enter__(self):
        eventually(lambda: "ready: grpc" in self.log.read_text() or self.process.poll() is not None, WAIT)
        ready = self.log.read_text().partition("ready: grpc ")[2].split()
        assert ready, self.log.read_text()
        return self.process, f"grpc://{ready[0]}"

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


# --- the sandbox ---------------------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_model_that_does_not_load_is_an_error_with_the_servers_words(tmp_path, exported):
    broken = tmp_path / "broken"
    shutil.copytree(exported.path, broken)
    (broken / "saved_model.pb").write_bytes(b"not a graph")
    with pytest.raises(ServingError, match=r"Can't parse .* as binary proto"), model_server(broken, timeout=WAIT):
        pass
    with pytest.raises(ServingError, match="neither a SavedModel"), model_server(tmp_path):
        pass
    with pytest.raises(ServingError, match=r"within 0\.01 s"), model_server(exported.path, timeout=0.01):
        pass


def test_the_process_ends_with_the_block_and_with_its_parent(tmp_path, exported):
    with model_server(exported.path, timeout=WAIT) as running:
        assert alive(running.pid)
    assert not alive(running.pid)
    script = (
        "import sys, pathlib, time\n"
        "from airflow_ml.serving.sandbox import model_server\n"
        f"with model_server(pathlib.Path({str(exported.path)!r}), timeout={WAIT}) as running:\n"
        "    print(running.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    assert alive(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    eventually(lambda: not alive(pid), 10)


def test_a_start_that_cannot_be_says_why(tmp_path):
    def fails(*flags: str) -> str:
        command = [sys.executable, "-m", "airflow_ml.serving.server", "--port=0", *flags]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
        assert ended.returncode == 1
        return ended.stderr

    assert "Failed to start server. Error: NOT_FOUND" in fails(f"--model_config_file={tmp_path}/none")
    broken = tmp_path / "broken.config"
    broken.write_text("model_config_list {")
    says = fails(f"--model_config_file={broken}")
    assert "INVALID_ARGUMENT" in says
    assert f"Invalid protobuf file: '{broken}'" in says
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig" in says
    base, batching = f"--model_base_path={tmp_path}", f"--batching_parameters_file={tmp_path}/none"
    assert "set without setting server_options.enable_batching" in fails(base, batching)
    assert "NOT_FOUND" in fails(base, batching, "--enable_batching")
    (tmp_path / "m" / "1").mkdir(parents=True)
    labelled = tmp_path / "labelled.config"
    labelled.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{tmp_path}/m" model_platform: "tensorflow" '
        'version_labels { key: "stable" value: 1 } } }'
    )
    assert "FAILED_PRECONDITION: Request to assign label to version 1" in fails(f"--model_config_file={labelled}")
