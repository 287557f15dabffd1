"""The REST client, on the standard library alone."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.client import DEADLINE, Client, ModelMetadata, Prediction, VersionStatus
from airflow_ml.serving.errors import ServerUnreachable, serving_error
from airflow_ml.serving.protos.tensors import as_text_list
from airflow_ml.serving.saved_model import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    import numpy as np

#: What the HTTP statuses of TF Serving mean; 400 stands for several codes, all of them the request's fault.
_CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}

_TYPE_NAMES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"}


class RestClient(Client):
    """A model server over REST. Each thread has a connection of its own, kept open between calls.

    Args:
        address: ``http://host:port``.
        deadline: How long a call may take, in seconds.
    """

    def __init__(self, address: str, deadline: float = DEADLINE) -> None:
        super().__init__(address, deadline)
        self._url = urlsplit(address)
        self._local = threading.local()

    def _predict(
        self,
        model: str,
        columns: Mapping[str, np.ndarray[Any, Any]],
        version: int | None,
        label: str | None,
        timeout: float,
    ) -> Prediction:
        import numpy as np

        inputs = {
            name: as_text_list(column) if column.dtype.kind in "OUS" else column.tolist()
            for name, column in columns.items()
        }
        body = json.dumps({"signature_name": DEFAULT_SIGNATURE, "inputs": inputs})  # NaN as TF Serving reads it
        where = self.where(model, version, label)
        outputs = self._request("POST", f"{_path(model, version, label)}:predict", body, where, timeout)["outputs"]
        named = outputs if isinstance(outputs, dict) else {"probability": outputs}
        arrays = {name: np.asarray(values) for name, values in named.items()}
        floats = {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in arrays.items()}
        return Prediction(floats, version)

    def _status(self, model: str, version: int | None, timeout: float) -> list[VersionStatus]:
        where = self.where(model, version)
        answer = self._request("GET", _path(model, version, None), None, where, timeout)
        return [
            VersionStatus(
                int(entry["version"]), entry["state"], entry["status"]["error_code"], entry["status"]["error_message"]
            )
            for entry in answer["model_version_status"]
        ]

    def _metadata(self, model: str, version: int | None, label: str | None, timeout: float) -> ModelMetadata:
        where = self.where(model, version, label)
        answer = self._request("GET", f"{_path(model, version, label)}/metadata", None, where, timeout)
        signature = answer["metadata"]["signature_def"]["signature_def"][DEFAULT_SIGNATURE]

        def types(entries: Mapping[str, Any]) -> dict[str, str]:
            return {name: _type(info["dtype"]) for name, info in sorted(entries.items())}

        return ModelMetadata(
            int(answer["model_spec"]["version"]), types(signature["inputs"]), types(signature["outputs"])
        )

    def _request(self, method: str, path: str, body: str | None, where: str, timeout: float) -> Any:
        fresh = getattr(self._local, "connection", None) is None
        try:
            status, content = self._send(method, path, body, timeout)
        except TimeoutError as error:
            self._drop()
            raise serving_error("DEADLINE_EXCEEDED", f"no answer within {timeout:.1f} s", where) from error
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            if not fresh:  # the server closed a connection that had idled; that says nothing about the server
                return self._request(method, path, body, where, timeout)
            raise ServerUnreachable(
                f"{type(error).__name__}: {error}", where, "check that the server runs and that the address is right"
            ) from error
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

    def _send(self, method: str, path: str, body: str | None, timeout: float) -> tuple[int, bytes]:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
            connection = self._local.connection = kind(self._url.netloc, timeout=timeout)
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        headers = {"Content-Type": "application/json"}
        connection.request(method, self._url.path + path, body.encode() if body else None, headers)
        response = connection.getresponse()
        return response.status, response.read()

    def _drop(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def close(self) -> None:
        """Close this thread's connection."""
        self._drop()


def _path(model: str, version: int | None, label: str | None) -> str:
    path = f"/v1/models/{quote(model, safe='')}"
    if version is not None:
        return f"{path}/versions/{version}"
    return f"{path}/labels/{quote(label, safe='')}" if label is not None else path


def _type(name: str) -> str:
    return _TYPE_NAMES.get(name, name.removeprefix("DT_").lower())
