"""TF Serving's protocol over REST: calls as JSON, and a transport on the standard library alone."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.calls import Call, ModelMetadata, Prediction, Target, VersionStatus
from airflow_ml.serving.errors import RequestRefused, ServerUnreachable, serving_error
from airflow_ml.serving.protos.tensors import as_text_list
from airflow_ml.serving.saved_model import DEFAULT_SIGNATURE
from airflow_ml.serving.security import Security

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

#: What the HTTP statuses of TF Serving mean; 400 stands for several codes, all of them the request's fault.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

_TYPE_NAMES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"}


class RestSpeaker:
    """Arguments as JSON.

    Args:
        address: Of the server, for messages to people.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def predict(
        self, target: Target, columns: Mapping[str, np.ndarray[Any, Any]], signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] = (),
    ) -> Call[Prediction]:  # fmt: skip
        """In column format. TF Serving always gives all outputs over REST: what is not wanted is dropped here."""
        inputs = {
            name: as_text_list(column) if column.dtype.kind in "OUS" else column.tolist()
            for name, column in columns.items()
        }
        body = json.dumps({"signature_name": signature, "inputs": inputs})  # NaN as TF Serving reads it
        where = target.at(self._address)
        return Call(
            f"POST {_path(target)}:predict",
            body,
            lambda answer: _prediction(answer, target.version, outputs, where),
            where,
        )

    def status(self, target: Target) -> Call[list[VersionStatus]]:
        """States, newest first."""
        return Call(f"GET {_path(target)}", None, _statuses, target.at(self._address))

    def metadata(self, target: Target) -> Call[ModelMetadata]:
        """Of the default signature."""
        where = target.at(self._address)
        return Call(f"GET {_path(target)}/metadata", None, lambda answer: _metadata(answer, where), where)

    def reload(self, config: Any) -> Call[None]:
        """TF Serving has none over REST."""
        raise RequestRefused(
            "a configuration cannot be replaced over REST", f"{self._address} reload", "use the server's gRPC address"
        )


class RestTransport:
    """Connections over HTTP/1.1. Each thread has one of its own, kept open between calls.

    Args:
        url: ``http://host:port``.
        security: Certificates and token.
    """

    def __init__(self, url: str, security: Security) -> None:
        self._url = urlsplit(url.rstrip("/"))
        self._local = threading.local()
        self._context = security.ssl_context() if self._url.scheme == "https" else None
        self._headers = {"Content-Type": "application/json", **dict(security.metadata)}

    def send(self, call: Call[T], timeout: float) -> T:
        """Send it once; a kept connection that turns out to be closed is opened anew."""
        fresh = getattr(self._local, "connection", None) is None
        try:
            status, content = self._send(call, timeout)
        except TimeoutError as error:
            self.close()
            raise serving_error("DEADLINE_EXCEEDED", f"no answer within {timeout:.1f} s", call.where) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not fresh:  # the server closed a connection that had idled; that says nothing about the server
                return self.send(call, timeout)
            raise unreachable(error, call.where) from error
        return call.heard(answer_of(status, content, call.where))

    def _send(self, call: Call[Any], timeout: float) -> tuple[int, bytes]:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = (
                http.client.HTTPSConnection(self._url.netloc, timeout=timeout, context=self._context)
                if self._context
                else http.client.HTTPConnection(self._url.netloc, timeout=timeout)
            )
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        verb, _, path = call.method.partition(" ")
        connection.request(verb, self._url.path + path, call.request.encode() if call.request else None, self._headers)
        response = connection.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None


def unreachable(error: Exception, where: str) -> ServingError:
    """What a connection that failed is told as."""
    return ServerUnreachable(
        f"{type(error).__name__}: {error}", where, "check that the server runs and that the address is right"
    )


def answer_of(status: int, content: bytes, where: str) -> Any:
    """The JSON of an answer.

    Raises:
        ServingError: it is none, or says what is wrong.
    """
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise ServingError(
            f"HTTP {status} without JSON", where, "check that the address is the REST port of a model server"
        ) from error
    if status != 200:
        message = answer.get("error", "") if isinstance(answer, dict) else str(answer)
        raise serving_error(_CODES.get(status, f"HTTP {status}"), message, where)
    return answer


def _prediction(answer: Any, version: int | None, wanted: Sequence[str], where: str) -> Prediction:
    import numpy as np

    outputs = answer["outputs"]
    named = outputs if isinstance(outputs, dict) else {wanted[0] if wanted else "probability": outputs}
    for name in wanted:
        if name not in named:
            raise serving_error("INVALID_ARGUMENT", f"output tensor alias not found in signature: {name}", where)
    arrays = {name: np.asarray(named[name]) for name in wanted or named}
    return Prediction(
        {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in arrays.items()},
        version,
    )


def _statuses(answer: Any) -> list[VersionStatus]:
    found = [
        VersionStatus(
            int(entry["version"]), entry["state"], entry["status"]["error_code"], entry["status"]["error_message"]
        )
        for entry in answer["model_version_status"]
    ]
    return sorted(found, key=lambda status: status.version, reverse=True)


def _metadata(answer: Any, where: str) -> ModelMetadata:
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    if DEFAULT_SIGNATURE not in signatures:
        known = ", ".join(sorted(signatures)) or "none"
        raise serving_error("FAILED_PRECONDITION", f"no signature {DEFAULT_SIGNATURE!r}; it has: {known}", where)

    def types(entries: Mapping[str, Any]) -> dict[str, str]:
        return {name: _type(info["dtype"]) for name, info in sorted(entries.items())}

    signature = signatures[DEFAULT_SIGNATURE]
    return ModelMetadata(int(answer["model_spec"]["version"]), types(signature["inputs"]), types(signature["outputs"]))


def _path(target: Target) -> str:
    path = f"/v1/models/{quote(target.model, safe='')}"
    if target.version is not None:
        return f"{path}/versions/{target.version}"
    return f"{path}/labels/{quote(target.label, safe='')}" if target.label is not None else path


def _type(name: str) -> str:
    return _TYPE_NAMES.get(name, name.removeprefix("DT_").lower())
