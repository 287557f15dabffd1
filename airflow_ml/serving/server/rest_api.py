"""The REST face of the server: predict, classify, regress, status, metadata, by version or by label; and the metrics.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from airflow_ml.serving.protos.messages import (
    ClassificationRequest,
    Example,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelSpec,
    RegressionRequest,
    SignatureDefMap,
)
from airflow_ml.serving.saved_model import DEFAULT_SIGNATURE
from airflow_ml.serving.server import api, json_answers, json_examples, rest_json
from airflow_ml.serving.server.core import Core
from airflow_ml.serving.server.flags import Flags
from airflow_ml.serving.server.http_body import BodyError, read_body
from airflow_ml.serving.server.options import metrics_path
from airflow_ml.serving.server.servable import Servable
from airflow_ml.serving.server.status import HTTP_STATUS, Code, StatusError, invalid, of_exception

log = logging.getLogger(__name__)

_TARGET = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_INFER = re.compile(rf"(?i){_TARGET}:(?P<method>classify|regress|predict)")
_READ = re.compile(rf"(?i){_TARGET}(?P<metadata>/metadata)?")


def start(core: Core, flags: Flags) -> tuple[ThreadingHTTPServer, int]:
    """Listen on the REST port; port 0 takes a free one. Gives the server and its port.

    Raises:
        OSError: the port is taken.
        StatusError: the monitoring config cannot be read.
    """

    class Handler(_Handler):
        pass

    Handler.api = Rest(core, flags.rest_api_timeout_in_ms / 1e3)
    Handler.metrics_path = metrics_path(flags.monitoring_config_file)
    server = _Server((flags.host, flags.rest_api_port), Handler)
    threading.Thread(target=server.serve_forever, name="rest", daemon=True).start()
    return server, server.server_address[1]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # connections that arrive at once; the default of 5 makes clients wait a second


class _Handler(BaseHTTPRequestHandler):
    api: Rest
    metrics_path: str
    protocol_version = "HTTP/1.1"
    server_version = "airflow-ml-model-server"
    wbufsize = -1  # one packet for head and body

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)

    def do_GET(self) -> None:
        if self.metrics_path and self.path.partition("?")[0] == self.metrics_path:
            self._send(200, self.api.core.metrics.page().encode(), "text/plain")
            return
        self._answer("GET", b"")

    def do_POST(self) -> None:
        try:
            body = read_body(self.headers, self.rfile)
        except BodyError as error:
            self.close_connection = True  # what follows on it would be read as a request
            self._send(error.status, _error(str(error)))
            return
        self._answer("POST", body)

    def do_PUT(self) -> None:
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # the body that nobody reads would be read as a request
        self._answer(self.command, b"")

    do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = do_PUT  # noqa: N815

    def _answer(self, method: str, body: bytes) -> None:
        path = self.path.partition("?")[0]
        if not path.lower().startswith("/v1/"):
            self._send(404, b"")
            return
        try:
            content = self.api.respond(method, path, body)
        except Exception as error:
            status = of_exception(error)
            if status.code is Code.INTERNAL:
                log.exception("%s %s", method, path)
            self._send(HTTP_STATUS[status.code], _error(status.message))
        else:
            self._send(200, content)

    def _send(self, status: int, content: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def _error(message: str) -> bytes:
    return json.dumps({"error": message}).encode()


class Rest:
    """Requests as bytes, answers as bytes.

    Args:
        core: The models.
        timeout: How long a request may run, in seconds.
    """

    def __init__(self, core: Core, timeout: float) -> None:
        self.core = core
        self._timeout = timeout

    def respond(self, method: str, path: str, body: bytes) -> bytes:
        """Answer a request.

        Raises:
            StatusError: with what is wrong.
        """
        if method == "POST" and (match := _INFER.fullmatch(path)):
            spec, kind = _spec(match), match["method"].capitalize()
            with api.measured(self.core, spec.name, kind, "REST"):
                document = rest_json.parse(body)
                answer = self._predict if kind == "Predict" else self._of_examples(kind)
                return self._in_time(spec, len(body), lambda servable: answer(servable, spec, document))
        if method == "GET" and (match := _READ.fullmatch(path)):
            return self._metadata(_spec(match)) if match["metadata"] else self._status(_spec(match))
        if method == "GET" and path.rstrip("/").lower() == "/v1/models":
            raise invalid("Missing model name in request.")
        raise invalid(f"Malformed request: {method} {path}")

    def _in_time(self, spec: Any, size: int, run: Callable[[Servable], bytes]) -> bytes:
        loan = self.core.lend(spec)
        if loan.quick(size):
            with loan as servable:
                return run(servable)
        future = loan.run(lambda: run(loan.servable))
        try:
            return future.result(self._timeout)
        except TimeoutError as error:
            future.cancel()  # where it has not begun; TensorFlow itself cannot be stopped
            raise StatusError(Code.DEADLINE_EXCEEDED, "Timed out waiting for the model.") from error

    @staticmethod
    def _predict(servable: Servable, spec: Any, document: Mapping[str, Any]) -> bytes:
        name = document.get("signature_name", "") or DEFAULT_SIGNATURE
        signature = servable.signature(name)
        if signature is None:
            raise invalid(f'Serving signature name: "{name}" not found in signature def')
        arrays, rows = rest_json.to_arrays(document, signature.inputs)
        return json_answers.to_json(servable.run(spec.name, "Predict", arrays, signature), rows)

    @staticmethod
    def _of_examples(kind: str) -> Callable[[Servable, Any, Mapping[str, Any]], bytes]:
        message, to_json = {
            "Classify": (ClassificationRequest, json_answers.of_classifications),
            "Regress": (RegressionRequest, json_answers.of_regressions),
        }[kind]

        def answer(servable: Servable, spec: Any, document: Mapping[str, Any]) -> bytes:
            request = message(model_spec=spec)
            request.model_spec.signature_name = document.get("signature_name", "")
            examples = json_examples.examples_of(document)
            request.input.example_list.examples.extend(Example.FromString(example) for example in examples)
            return to_json(api.INFERENCES[kind](servable, request).result)

        return answer

    def _status(self, spec: Any) -> bytes:
        return _message_json(api.get_model_status(self.core, GetModelStatusRequest(model_spec=spec))).encode()

    def _metadata(self, spec: Any) -> bytes:
        request = GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        response = api.get_model_metadata(self.core, request)
        signatures = SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        answer = {
            "model_spec": json.loads(_message_json(response.model_spec)),
            "metadata": {"signature_def": json.loads(_message_json(signatures))},
        }
        return json.dumps(answer, indent=1).encode()


def _spec(match: re.Match[str]) -> Any:
    spec = ModelSpec(name=unquote(match["name"]))
    if match["version"]:
        if int(match["version"]) >= 2**63:
            raise invalid(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(match["version"])
    elif match["label"]:
        spec.version_label = unquote(match["label"])
    return spec


def _message_json(message: Any) -> str:
    from google.protobuf.json_format import MessageToJson

    return MessageToJson(message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True, indent=1)
