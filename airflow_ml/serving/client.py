"""Asking a TensorFlow Serving server, over gRPC or REST, with or without an event loop. Needs no TensorFlow.

``connect("grpc://host:8500")`` and ``connect("http://host:8501")`` give the same calls, and so does ``connect_async``
to ``await``. ``grpcs`` and ``https`` are the same through TLS. Every call has a deadline; only UNAVAILABLE is tried
again, because any other answer would be the same the second time.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.calls import (
    DEADLINE,
    RELOAD_DEADLINE,
    Call,
    ModelMetadata,
    Patience,
    Prediction,
    Speaker,
    Target,
    VersionStatus,
    arrays_of,
)
from airflow_ml.serving.errors import ServerUnreachable
from airflow_ml.serving.saved_model import DEFAULT_SIGNATURE
from airflow_ml.serving.security import Security

if TYPE_CHECKING:
    from airflow_ml.serving.calls import Columns

T = TypeVar("T")
Connection = TypeVar("Connection")

_NO_SECURITY = Security()


class Transport(Protocol):
    """Sends calls and waits in the thread."""

    def send(self, call: Call[T], timeout: float) -> T:
        """Send it once; what the server refuses is raised as a `ServingError`."""

    def close(self) -> None:
        """Let the connection go."""


class AsyncTransport(Protocol):
    """Sends calls from an event loop."""

    async def send(self, call: Call[T], timeout: float) -> T:
        """Send it once; what the server refuses is raised as a `ServingError`."""

    async def close(self) -> None:
        """Let the connection go."""


class _Connected(Generic[Connection]):
    """What is known of a server, however one waits for it.

    Args:
        address: Where it is.
        speaker: The protocol.
        transport: The connection.
        deadline: How long a call may take, in seconds.
    """

    def __init__(self, address: str, speaker: Speaker, transport: Connection, deadline: float = DEADLINE) -> None:
        self.address = address
        self.deadline = deadline
        self._speaker = speaker
        self._transport = transport

    def where(self, model: str, version: int | None = None, label: str | None = None) -> str:
        """Server, model and version, for messages."""
        return Target(model, version, label).at(self.address)


class Client(_Connected[Transport]):
    """A model server as Python calls. Use it as a context manager; it may be used by several threads."""

    def predict(
        self, model: str, columns: Columns, *, version: int | None = None, label: str | None = None,
        deadline: float | None = None, signature: str = DEFAULT_SIGNATURE, outputs: Sequence[str] = (),
        as_given: bool = False,
    ) -> Prediction:  # fmt: skip
        """Ask a model.

        Args:
            model: Its name.
            columns: Name → values [n]. Floats are sent as float32, whole numbers as int64, objects as text.
            version: This version, or
            label: the version with this label; neither means the newest that is loaded.
            deadline: In place of the client's.
            signature: The entry point.
            outputs: Names of the wanted outputs; all if empty.
            as_given: Send arrays in their own types, for a model that takes, say, int32 or float64.

        Raises:
            RequestRefused: the columns do not fit, or the label, the signature or an output is unknown.
            ModelNotServed: the model or version is not there.
            ServerUnreachable: nobody answered, three retries included.
            ServingTimeout: no answer in time.
        """
        target, arrays = Target(model, version, label), arrays_of(columns, as_given)
        return self._ask(self._speaker.predict(target, arrays, signature, outputs), deadline)

    def status(self, model: str, version: int | None = None, *, label: str | None = None) -> list[VersionStatus]:
        """The versions of a model that the server knows, newest first; of one version if given.

        A label is looked up first: the server itself would not heed it here.

        Raises:
            ModelNotServed: it knows none.
            RequestRefused: the label is unknown.
        """
        if label is not None:
            version = self.metadata(model, label=label).version
        return self._ask(self._speaker.status(Target(model, version)))

    def metadata(self, model: str, *, version: int | None = None, label: str | None = None) -> ModelMetadata:
        """What a version takes and gives.

        Raises:
            ModelNotServed: it is not there.
            RequestRefused: the label is unknown.
        """
        return self._ask(self._speaker.metadata(Target(model, version, label)))

    def reload(self, config: Any, deadline: float = RELOAD_DEADLINE) -> None:
        """Replace the server's whole configuration. gRPC only.

        Args:
            config: ``ModelServerConfig``. A model that it leaves out is unloaded.
            deadline: The server waits for new models; this long at most, in seconds.

        Raises:
            RequestRefused: the server keeps its old configuration.
        """
        self._ask(self._speaker.reload(config), deadline)

    def close(self) -> None:
        """Let the connection go."""
        self._transport.close()

    def _ask(self, call: Call[T], deadline: float | None = None) -> T:
        patience = Patience(self.deadline if deadline is None else deadline)
        while True:
            try:
                return self._transport.send(call, patience.left)
            except ServerUnreachable:
                pause = patience.pause()
                if pause is None:
                    raise
            time.sleep(pause)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Connected[AsyncTransport]):
    """The same calls to ``await``. Use it as an asynchronous context manager, in one event loop."""

    async def predict(
        self, model: str, columns: Columns, *, version: int | None = None, label: str | None = None,
        deadline: float | None = None, signature: str = DEFAULT_SIGNATURE, outputs: Sequence[str] = (),
        as_given: bool = False,
    ) -> Prediction:  # fmt: skip
        """As `Client.predict`."""
        target, arrays = Target(model, version, label), arrays_of(columns, as_given)
        return await self._ask(self._speaker.predict(target, arrays, signature, outputs), deadline)

    async def status(self, model: str, version: int | None = None, *, label: str | None = None) -> list[VersionStatus]:
        """As `Client.status`."""
        if label is not None:
            version = (await self.metadata(model, label=label)).version
        return await self._ask(self._speaker.status(Target(model, version)))

    async def metadata(self, model: str, *, version: int | None = None, label: str | None = None) -> ModelMetadata:
        """As `Client.metadata`."""
        return await self._ask(self._speaker.metadata(Target(model, version, label)))

    async def reload(self, config: Any, deadline: float = RELOAD_DEADLINE) -> None:
        """As `Client.reload`."""
        await self._ask(self._speaker.reload(config), deadline)

    async def close(self) -> None:
        """Let the connection go."""
        await self._transport.close()

    async def _ask(self, call: Call[T], deadline: float | None = None) -> T:
        patience = Patience(self.deadline if deadline is None else deadline)
        while True:
            try:
                return await self._transport.send(call, patience.left)
            except ServerUnreachable:
                pause = patience.pause()
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def connect(url: str, deadline: float = DEADLINE, security: Security = _NO_SECURITY) -> Client:
    """A client for ``grpc://host:port`` or ``http://host:port``. Nothing is sent yet.

    Args:
        url: ``grpcs`` and ``https`` go through TLS.
        deadline: How long a call may take, in seconds.
        security: Certificates and token.

    Raises:
        ServingError: another scheme, certificates without TLS, or certificates that cannot be read.
    """
    scheme, address = _split(url, security)
    if scheme in ("grpc", "grpcs"):
        from airflow_ml.serving.grpc_client import GrpcSpeaker, GrpcTransport

        return Client(url, GrpcSpeaker(url), GrpcTransport(address, scheme == "grpcs", security), deadline)
    from airflow_ml.serving.rest_client import RestSpeaker, RestTransport

    return Client(url, RestSpeaker(url), RestTransport(url, security), deadline)


def connect_async(url: str, deadline: float = DEADLINE, security: Security = _NO_SECURITY) -> AsyncClient:
    """As `connect`, for an event loop."""
    scheme, address = _split(url, security)
    if scheme in ("grpc", "grpcs"):
        from airflow_ml.serving.grpc_client import AsyncGrpcTransport, GrpcSpeaker

        return AsyncClient(url, GrpcSpeaker(url), AsyncGrpcTransport(address, scheme == "grpcs", security), deadline)
    from airflow_ml.serving.async_rest_client import AsyncRestTransport
    from airflow_ml.serving.rest_client import RestSpeaker

    return AsyncClient(url, RestSpeaker(url), AsyncRestTransport(url, security), deadline)


def _split(url: str, security: Security) -> tuple[str, str]:
    scheme, _, address = url.partition("://")
    if scheme not in ("grpc", "grpcs", "http", "https") or not address:
        raise ServingError("not the address of a model server", url, "write it grpc://host:8500 or http://host:8501")
    if security.tls and scheme in ("grpc", "http"):
        raise ServingError("certificates are given, but the connection is not encrypted", url, f"write {scheme}s://")
    return scheme, address
