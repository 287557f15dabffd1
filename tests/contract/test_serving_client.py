"""The client: the same answers over both protocols, with and without an event loop, with certificates and tokens."""

import asyncio
import contextlib
import json
import ssl
import subprocess
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pytest

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.calls import PAUSE, RETRIES, Patience
from airflow_ml.serving.client import connect, connect_async
from airflow_ml.serving.errors import (
    AccessRefused,
    ModelNotServed,
    RequestRefused,
    ServerUnreachable,
    ServingTimeout,
)
from airflow_ml.serving.protos.messages import METHODS, GetModelStatusResponse, ModelServerConfig
from airflow_ml.serving.security import Security
from airflow_ml.serving.server.core import Core
from airflow_ml.serving.server.flags import Flags
from airflow_ml.serving.server.grpc_api import GrpcServer
from tests.support.saved_models import SLOW_S
from tests.support.tls import certificates

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STATUS = "/tensorflow.serving.ModelService/GetModelStatus"


class Awaited:
    """An `AsyncClient` behind the methods of `Client`, so that one test asks both."""

    def __init__(self, url, **arguments):
        self._loop = asyncio.new_event_loop()
        self._client = connect_async(url, **arguments)
        self.address = self._client.address

    def __getattr__(self, name):
        return lambda *args, **named: self._loop.run_until_complete(getattr(self._client, name)(*args, **named))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


WAYS = {"sync": connect, "async": Awaited}


@pytest.fixture(scope="module", params=["grpc-sync", "grpc-async", "rest-sync", "rest-async"])
def client(server, request):
    protocol, _, way = request.param.partition("-")
    with WAYS[way](server.grpc if protocol == "grpc" else server.rest) as connected:
        yield connected


@pytest.fixture(scope="module")
def ask(exported):
    """The first golden request and its answer."""
    golden = exported.golden[0]
    return golden.columns(), np.array(golden.probability, dtype=np.float32)


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [{}, {"version": 3}, {"label": "stable"}], ids=["newest", "version", "label"])
def test_a_version_is_asked_by_number_or_label(client, ask, target):
    prediction = client.predict("m", ask[0], **target)
    np.testing.assert_allclose(prediction.probability, ask[1], atol=1e-6)
    assert prediction.version == (3 if client.address.startswith("grpc") else target.get("version"))


def test_another_signature_some_outputs_and_other_types(client):
    columns = {"n": np.array([1], dtype=np.int32), "d": np.array([0.5], dtype=np.float64)}
    found = client.predict("kinds", columns, signature="numbers", as_given=True).outputs
    assert {name: values.tolist() for name, values in found.items()} == {"n": [2], "d": [1.5]}
    found = client.predict("kinds", columns, signature="numbers", outputs=["n"], as_given=True).outputs
    assert {name: values.tolist() for name, values in found.items()} == {"n": [2]}
    found = client.predict("kinds", {"x": [[2.0]]}, outputs=["y"]).outputs
    assert {name: values.tolist() for name, values in found.items()} == {"y": [[2.0]]}
    with pytest.raises(RequestRefused, match="output tensor alias not found in signature: nope"):
        client.predict("kinds", columns, signature="numbers", outputs=["nope"], as_given=True)
    with pytest.raises(RequestRefused, match="nowhere"):
        client.predict("kinds", columns, signature="nowhere", as_given=True)


def test_status_and_metadata(client):
    (status,) = client.status("m")
    assert (status.version, status.state, status.error_code, status.failed) == (3, "AVAILABLE", "OK", False)
    assert client.status("m", 3) == client.status("m", label="stable") == [status]
    metadata = client.metadata("m", label="stable")
    assert metadata == client.metadata("m", version=3)
    assert metadata.version == 3
    assert metadata.inputs == {"carrier": "string", "hour": "int64", "distance": "float32", "wind": "float32"}
    assert metadata.outputs == {"probability": "float32"}


@pytest.mark.parametrize(
    ("error", "says", "target"),
    [
        (ModelNotServed, r"Servable not found for request: Latest\(nobody\)", {"model": "nobody"}),
        (ModelNotServed, r"Servable not found for request: Specific\(m, 9\)", {"version": 9}),
        (RequestRefused, "Unrecognized servable version label: gold", {"label": "gold"}),
    ],
)
def test_who_is_not_there_is_named_with_server_model_and_version(client, ask, error, says, target):
    asked = {"model": "m"} | target
    with pytest.raises(error, match=says) as raised:
        client.predict(columns=ask[0], **asked)
    rest = asked.get("version", asked.get("label"))
    assert raised.value.where.startswith(f"{client.address} model {asked['model']}")
    assert rest is None or raised.value.where.endswith(str(rest))
    assert raised.value.remedy
    with pytest.raises(error):
        client.metadata(**asked)


def test_status_of_what_is_not_there(client):
    with pytest.raises(ModelNotServed, match="Could not find any versions of model nobody"):
        client.status("nobody")
    with pytest.raises(ModelNotServed, match="Could not find version 9 of model m"):
        client.status("m", 9)
    with pytest.raises(RequestRefused, match="Unrecognized servable version label: gold"):
        client.status("m", label="gold")


def test_a_configuration_is_replaced_over_grpc_only(client):
    wrong = ModelServerConfig()
    wrong.model_config_list.config.add(name="m", base_path="relative", model_platform="tensorflow")
    says = "absolute path" if client.address.startswith("grpc") else "over REST"
    with pytest.raises(RequestRefused, match=says) as raised:
        client.reload(wrong)
    assert client.address in raised.value.where
    assert client.status("m")[0].state == "AVAILABLE"


def test_many_at_once_in_one_loop(server, ask):
    async def all_of_them(url):
        async with connect_async(url) as client:
            return await asyncio.gather(*(client.predict("m", ask[0]) for _ in range(20)))

    for url in (server.grpc, server.rest):
        for prediction in asyncio.run(all_of_them(url)):
            np.testing.assert_allclose(prediction.probability, ask[1], atol=1e-6)


# --- patience -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_deadline_is_kept(server, way, protocol):
    with WAYS[way](server.grpc if protocol == "grpc" else server.rest) as client:
        began = time.monotonic()
        with pytest.raises(ServingTimeout) as late:
            client.predict("slow", {"x": [1.0]}, version=1, deadline=0.1)
        assert time.monotonic() - began < 0.8 * SLOW_S, "it did not wait for the answer"
    assert late.value.where.endswith("model slow version 1")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_dead_address_is_tried_again_and_then_named(way, scheme):
    began = time.monotonic()
    with WAYS[way](f"{scheme}://127.0.0.1:9") as dead, pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9"):
        dead.status("m")
    assert PAUSE * (2**RETRIES - 1) <= time.monotonic() - began < 8


def test_retries_are_bounded_in_number_and_time():
    patience = Patience(60)
    assert [patience.pause() for _ in range(RETRIES + 1)] == [*(PAUSE * 2**n for n in range(RETRIES)), None]
    assert Patience(PAUSE / 2).pause() is None, "a pause that outlasts the deadline"
    assert Patience(0).left > 0


@contextlib.contextmanager
def grpc_server(answer):
    """A gRPC server with one method, `GetModelStatus`; gives its address and how often it was asked."""
    asked = []

    def answered(request, context):
        asked.append(dict(context.invocation_metadata()))
        code = answer(len(asked), asked[-1])
        if code is not grpc.StatusCode.OK:
            context.abort(code, "as it was told")
        return GetModelStatusResponse()

    _, service, method = STATUS.split("/")
    request, response = METHODS[STATUS]
    handler = grpc.unary_unary_rpc_method_handler(answered, request.FromString, response.SerializeToString)
    made = grpc.server(futures.ThreadPoolExecutor(1))
    made.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
    port = made.add_insecure_port("127.0.0.1:0")
    made.start()
    yield f"grpc://127.0.0.1:{port}", asked
    made.stop(None)


@pytest.mark.parametrize("way", WAYS)
def test_only_unavailable_is_tried_again(way):
    codes = grpc.StatusCode
    for code, error, times in [
        (codes.UNAVAILABLE, None, 2),  # the second attempt is answered
        (codes.RESOURCE_EXHAUSTED, ServingError, 1),
        (codes.INTERNAL, ServingError, 1),
        (codes.FAILED_PRECONDITION, RequestRefused, 1),
        (codes.NOT_FOUND, ModelNotServed, 1),
    ]:
        with grpc_server(lambda n, _, code=code: codes.OK if n > 1 else code) as (url, asked), WAYS[way](url) as client:
            with pytest.raises(error) if error else contextlib.nullcontext():
                assert client.status("m") == []
            assert len(asked) == times


# --- who asks -------------------------------------------------------------------------------------------------------


def test_a_token_goes_with_every_call_and_into_no_text():
    def guard(_, metadata):
        good = metadata.get("authorization") == "Bearer s3cret"
        return grpc.StatusCode.OK if good else grpc.StatusCode.UNAUTHENTICATED

    known = Security(token="s3cret")
    assert "s3cret" not in repr(known)
    for way in WAYS.values():
        with grpc_server(guard) as (url, _):
            with way(url, security=known) as client:
                assert client.status("m") == []
            with way(url) as client, pytest.raises(AccessRefused) as raised:
                client.status("m")
            assert "s3cret" not in str(raised.value)


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return certificates()


@pytest.fixture(scope="module")
def secured(certs, tmp_path_factory):
    """A model server without models, behind mutual TLS by its own flag."""
    config = tmp_path_factory.mktemp("tls") / "ssl.config"
    fields = {"server_key": certs.server_key, "server_cert": certs.server, "custom_ca": certs.ca}
    config.write_text("".join(f"{k}: {json.dumps(v)}\n" for k, v in fields.items()) + "client_verify: true\n")
    flags = Flags(port=0, ssl_config_file=str(config))
    core = Core(flags)
    running = GrpcServer(core, flags)
    yield f"grpcs://127.0.0.1:{running.port}"
    running.stop(0)
    core.close()


@pytest.mark.parametrize("way", WAYS)
def test_mutual_tls_over_grpc(secured, certs, way, tmp_path):
    key = tmp_path / "key.pem"
    key.write_text(certs.client_key)
    known = Security(ca=certs.ca, certificate=certs.client, key=str(key))  # text or a file
    with way_to(way, secured, known) as client, pytest.raises(ModelNotServed, match="any versions of model m"):
        client.status("m")
    for stranger in (Security(ca=certs.ca), Security()):
        with way_to(way, secured, stranger) as client, pytest.raises(ServerUnreachable):
            client.status("m")


def way_to(way, url, security):
    return WAYS[way](url, deadline=2.0, security=security)


@pytest.fixture(scope="module")
def https(certs, tmp_path_factory):
    """A server over HTTPS that knows one token: what a proxy before TF Serving is."""
    folder = tmp_path_factory.mktemp("https")
    for name, text in (("server.pem", certs.server), ("key.pem", certs.server_key)):
        (folder / name).write_text(text)

    class Guarded(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            good = self.headers["authorization"] == "Bearer s3cret"
            body = json.dumps({"model_version_status": []} if good else {"error": "no"}).encode()
            self.send_response(200 if good else 401)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "key.pem")
    context.load_verify_locations(cadata=certs.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("way", WAYS)
def test_mutual_tls_and_a_token_over_rest(https, certs, way):
    mutual = {"ca": certs.ca, "certificate": certs.client, "key": certs.client_key}
    with way_to(way, https, Security(token="s3cret", **mutual)) as client:
        assert client.status("m") == []
    with way_to(way, https, Security(**mutual)) as client, pytest.raises(AccessRefused):
        client.status("m")
    for stranger in (Security(ca=certs.ca), Security()):
        with way_to(way, https, stranger) as client, pytest.raises(ServerUnreachable):
            client.status("m")


def test_what_cannot_be_a_connection_is_said_at_once(tmp_path):
    with pytest.raises(ServingError, match="not the address of a model server"):
        connect("tcp://x:1")
    with pytest.raises(ServingError, match=r"not encrypted.*grpcs://"):
        connect("grpc://x:1", security=Security(ca="-----BEGIN CERTIFICATE-----"))
    with pytest.raises(ServingError, match="the key is missing"):
        Security(certificate="x")
    for url in ("grpcs://x:1", "https://x:1"):
        with pytest.raises(ServingError, match="CA certificate cannot be read"):
            connect(url, security=Security(ca=str(tmp_path / "none.pem")))
    with pytest.raises(ServingError, match="certificates cannot be used"):
        connect("https://x:1", security=Security(ca="-----BEGIN nothing"))


# --- cost -----------------------------------------------------------------------------------------------------------


def test_the_client_costs_little():
    """At most 0.4 s and 60 MB, the best of three starts: others run beside."""
    script = (
        "import re, sys, time\n"
        "began = time.perf_counter()\n"
        "from airflow_ml.serving.client import connect\n"
        "connect('grpc://127.0.0.1:1')\n"
        "took = time.perf_counter() - began\n"
        "heavy = {'tensorflow', 'torch', 'numpy', 'pandas', 'airflow', 'aiohttp'} & set(sys.modules)\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024, took, *sorted(heavy))\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
        for _ in range(3)
    ]
    assert all(run[2:] == [] for run in runs)
    assert min(float(run[0]) for run in runs) <= 60, "MB"
    assert min(float(run[1]) for run in runs) <= 0.4, "s"
