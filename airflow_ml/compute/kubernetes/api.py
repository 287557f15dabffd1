"""One request to the API server, on plain values, and its errors in our words.

The client of the Kubernetes project does the talking (addresses, certificates, tokens and their renewal); its models
are left out, because making thousands of them takes seconds that the API server's JSON does not.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from airflow_ml.lifecycle.errors import ClusterError

Object = dict[str, Any]

_PATCH = "application/merge-patch+json"
_RETRIES_S = (0.2, 0.5, 1.0, 2.0, 4.0)
TIMEOUT_S = 20.0

METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""A list that says of each object only who it is: a tenth of it, for jobs."""


class ApiError(Exception):
    """The API server refused a request, or is not there.

    Args:
        status: HTTP status; 0 when there was no answer.
        reason: Of the server, one word: ``NotFound``, ``Conflict``, ``Forbidden``.
        what: Its message.
        where: Method and path.
    """

    def __init__(self, status: int, reason: str, what: str, where: str) -> None:
        super().__init__(f"{where}: {what}")
        self.status = status
        self.reason = reason
        self.what = what
        self.where = where

    @property
    def away(self) -> bool:
        """Whether the same request may succeed later: no answer, too many requests, a server that is not well."""
        return self.status in (0, 429) or self.status >= 500

    @property
    def waited_out(self) -> bool:
        """Whether who waits for a job goes on waiting: also while a token has run out and the next is on its way."""
        return self.away or self.status == 401

    def told(self, remedy: str = "look at the cluster, and at the connection that leads to it") -> ClusterError:
        """As an error for people."""
        return ClusterError(self.what, where=self.where, remedy=remedy)


class Api(Protocol):
    """The API server."""

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Object | None = None,
        accept: str | None = None,
    ) -> Any:
        """One request.

        Args:
            method: GET, POST, PATCH (a JSON merge patch) or DELETE.
            path: From ``/api`` or ``/apis``.
            query: Parameters.
            body: An object.
            accept: Form of the answer, where it is not the object itself.

        Returns:
            The object; the text, for a path that ends with ``/log``.

        Raises:
            ApiError: Refused, or no answer.
        """


class ClientApi:
    """The API server, through a client of the ``kubernetes`` package; a request that may succeed later is repeated.

    Args:
        connect: Makes a ``kubernetes.client.ApiClient``; called again when the server no longer knows who we are, for a
            token that has run out.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._client = _once_each(connect())

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Object | None = None,
        accept: str | None = None,
    ) -> Any:
        """One request, see `Api`."""
        renewed, delays = False, iter(_RETRIES_S)
        while True:
            try:
                return self._once(method, path, query, body, accept)
            except ApiError as error:
                if error.status == 401 and not renewed:
                    renewed = True
                    self._client = _once_each(self._connect())
                    continue
                # What was sent and not answered may have been done: names make the second time harmless.
                delay = next(delays, None) if error.away else None
                if delay is None:
                    raise
                time.sleep(delay)

    def _once(
        self, method: str, path: str, query: Mapping[str, Any] | None, body: Object | None, accept: str | None = None
    ) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        is_log = path.endswith("/log")
        try:
            response = self._client.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={
                    "Accept": accept or ("*/*" if is_log else "application/json"),
                    "Content-Type": _PATCH if method == "PATCH" else "application/json",
                },
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=TIMEOUT_S,
            )
            data = response.data
        except ApiException as error:
            raise refused(error.status or 0, error.body or error.reason or "", f"{method} {path}") from error
        except (HTTPError, OSError) as error:
            raise ApiError(0, "NoAnswer", f"no answer: {type(error).__name__}", f"{method} {path}") from error
        return data.decode("utf-8", "replace") if is_log else json.loads(data)


def _once_each(client: Any) -> Any:
    """A client whose connections do not repeat requests by themselves: we do, and say so once."""
    client.rest_client.pool_manager.connection_pool_kw["retries"] = False
    return client


def refused(status: int, body: str | bytes, where: str) -> ApiError:
    """The error of an answer; Kubernetes says why in a ``Status`` object."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    try:
        told = json.loads(text)
        return ApiError(status, str(told.get("reason") or status), str(told.get("message") or text), where)
    except (ValueError, AttributeError):
        return ApiError(status, str(status), text.strip() or f"HTTP {status}", where)


PLURALS: dict[str, str] = {
    "Job": "jobs",
    "MPIJob": "mpijobs",
    "Pod": "pods",
    "Event": "events",
    "ConfigMap": "configmaps",
    "Secret": "secrets",
    "Service": "services",
    "NetworkPolicy": "networkpolicies",
    "PodGroup": "podgroups",
    "LocalQueue": "localqueues",
    "Workload": "workloads",
}


def path_of(version: str, kind: str, namespace: str, name: str | None = None) -> str:
    """Path of objects of a kind, or of one of them."""
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    return f"{root}/namespaces/{namespace}/{PLURALS[kind]}" + (f"/{name}" if name else "")
