"""The REST face of the server: predict, status and metadata, by version or by label.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from airflow_ml.serving.protos.messages import (
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelSpec,
    SignatureDefMap,
)
from airflow_ml.serving.protos.tensors import to_proto
from airflow_ml.serving.server import api, rest_json
from airflow_ml.serving.server.core import Core
from airflow_ml.serving.server.status import HTTP_STATUS, Code, StatusError, invalid, of_exception

log = logging.getLogger(__name__)

_TARGET = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_PREDICT = re.compile(rf"(?i){_TARGET}:(?P<method>classify|regress|predict)")
_READ = re.compile(rf"(?i){_TARGET}(?P<metadata>/metadata)?")


def start(core: Core, host: str, port: int) -> tuple[ThreadingHTTPServer, int]:
    """Listen on ``host:port``; port 0 takes a free one. Gives the server and its port.

    Raises:
        OSError: the port is taken.
    """

    class Handler(_Handler):
        pass

    Handler.core = core
    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="rest", daemon=True).start()
    return server, server.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    core: Core
    protocol_version = "HTTP/1.1"
    server_version = "airflow-ml-model-server"
    wbufsize = -1  # one packet for head and body

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)

    def do_GET(self) -> None:
        self._answer("GET", b"")

    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("Content-Length", ""))
            if length < 0:
                raise ValueError(length)
        except ValueError:
            self.close_connection = True
            self._send(411, _error("Content-Length is missing or not a length"))
            return
        self._answer("POST", self.rfile.read(length))

    def _answer(self, method: str, body: bytes) -> None:
        path = self.path.partition("?")[0]
        if not path.lower().startswith("/v1/"):
            self._send(404, b"")
            return
        try:
            content = _respond(self.core, method, path, body)
        except Exception as error:
            status = of_exception(error)
            if status.code is Code.INTERNAL:
                log.exception("%s %s", method, path)
            self._send(HTTP_STATUS[status.code], _error(status.message))
        else:
            self._send(200, content)

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def _error(message: str) -> bytes:
    return json.dumps({"error": message}).encode()


def _respond(core: Core, method: str, path: str, body: bytes) -> bytes:
    if method == "POST" and (match := _PREDICT.fullmatch(path)):
        if match["method"].lower() != "predict":
            raise StatusError(Code.UNIMPLEMENTED, f"{match['method']} is not implemented by this stand-in; use predict")
        return _predict(core, _spec(match), body)
    if method == "GET" and (match := _READ.fullmatch(path)):
        return _metadata(core, _spec(match)) if match["metadata"] else _status(core, _spec(match))
    if method == "GET" and path.rstrip("/").lower() == "/v1/models":
        raise invalid("Missing model name in request.")
    raise invalid(f"Malformed request: {method} {path}")


def _spec(match: re.Match[str]) -> Any:
    spec = ModelSpec(name=unquote(match["name"]))
    if match["version"]:
        if int(match["version"]) >= 2**63:
            raise invalid(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(match["version"])
    elif match["label"]:
        spec.version_label = unquote(match["label"])
    return spec


def _predict(core: Core, spec: Any, body: bytes) -> bytes:
    document = rest_json.parse(body)
    with core.borrow(spec) as (_, servable):
        try:
            signature = servable.signature(document.get("signature_name", ""))
        except StatusError as error:
            raise invalid(
                f'Serving signature name: "{document["signature_name"]}" not found in signature def'
            ) from error
        arrays, rows = rest_json.to_arrays(document, signature.inputs)
        protos = {name: to_proto(array) for name, array in arrays.items()}
        return rest_json.to_json(servable.predict(protos, signature.name), rows)


def _status(core: Core, spec: Any) -> bytes:
    return _message_json(api.get_model_status(core, GetModelStatusRequest(model_spec=spec))).encode()


def _metadata(core: Core, spec: Any) -> bytes:
    request = GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
    response = api.get_model_metadata(core, request)
    signatures = SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    answer = {
        "model_spec": json.loads(_message_json(response.model_spec)),
        "metadata": {"signature_def": json.loads(_message_json(signatures))},
    }
    return json.dumps(answer, indent=1).encode()


def _message_json(message: Any) -> str:
    from google.protobuf.json_format import MessageToJson

    return MessageToJson(message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True, indent=1)
