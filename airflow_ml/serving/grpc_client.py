"""TF Serving's protocol over gRPC: calls as messages, and two ways to send them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from airflow_ml.serving.calls import Call, ModelMetadata, Prediction, Target, VersionStatus
from airflow_ml.serving.errors import serving_error
from airflow_ml.serving.protos.messages import (
    CLIENT_METHODS,
    ERROR_CODES,
    METHODS,
    VERSION_STATES,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelSpec,
    PredictRequest,
    ReloadConfigRequest,
    SignatureDefMap,
)
from airflow_ml.serving.protos.tensors import fill, to_numpy, type_name
from airflow_ml.serving.saved_model import DEFAULT_SIGNATURE
from airflow_ml.serving.security import Security

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

_STATE_NAMES = {number: name for name, number in VERSION_STATES.items()}
_CODE_NAMES = {number: name for name, number in ERROR_CODES.items()}
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),  # we retry ourselves, so that the count is ours
    ("grpc.enable_http_proxy", 0),  # a proxy of the environment is for the outside world
    ("grpc.initial_reconnect_backoff_ms", 100),  # a server that comes back is found within a second
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class GrpcSpeaker:
    """Arguments as messages.

    Args:
        address: Of the server, for messages to people.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def predict(
        self, target: Target, columns: Mapping[str, np.ndarray[Any, Any]], signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] = (),
    ) -> Call[Prediction]:  # fmt: skip
        """``Predict``."""
        request = PredictRequest(model_spec=_spec(target))
        request.model_spec.signature_name = signature
        request.output_filter.extend(outputs)
        for name, column in columns.items():
            fill(column, request.inputs[name])
        return Call("Predict", request, _prediction, target.at(self._address))

    def status(self, target: Target) -> Call[list[VersionStatus]]:
        """``GetModelStatus``."""
        request = GetModelStatusRequest(model_spec=_spec(target))
        return Call("GetModelStatus", request, _statuses, target.at(self._address))

    def metadata(self, target: Target) -> Call[ModelMetadata]:
        """``GetModelMetadata`` of the default signature."""
        request = GetModelMetadataRequest(model_spec=_spec(target), metadata_field=["signature_def"])
        where = target.at(self._address)
        return Call("GetModelMetadata", request, lambda response: _metadata(response, where), where)

    def reload(self, config: Any) -> Call[None]:
        """``HandleReloadConfigRequest``."""
        where = f"{self._address} reload"

        def read(response: Any) -> None:
            if response.status.error_code:  # some builds answer OK and say it here
                code = _CODE_NAMES.get(response.status.error_code, "UNKNOWN")
                raise serving_error(code, response.status.error_message, where)

        return Call("HandleReloadConfigRequest", ReloadConfigRequest(config=config), read, where)


class GrpcTransport:
    """A channel, for threads.

    Args:
        address: ``host:port``.
        tls: Whether it is encrypted.
        security: Certificates and token.
    """

    def __init__(self, address: str, tls: bool, security: Security) -> None:
        self._channel = (
            grpc.secure_channel(address, security.channel_credentials(), options=_OPTIONS)
            if tls
            else grpc.insecure_channel(address, options=_OPTIONS)
        )
        self._metadata = security.metadata
        self._calls = _stubs(self._channel)

    def send(self, call: Call[T], timeout: float) -> T:
        """Send it once."""
        try:
            answer = self._calls[call.method](call.request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise serving_error(error.code().name, error.details() or "", call.where) from error
        return call.heard(answer)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class AsyncGrpcTransport:
    """A channel, for an event loop. Give it up by cancelling: the server is told.

    Args:
        address: ``host:port``.
        tls: Whether it is encrypted.
        security: Certificates and token.
    """

    def __init__(self, address: str, tls: bool, security: Security) -> None:
        self._address = address
        self._credentials = security.channel_credentials() if tls else None
        self._metadata = security.metadata
        self._channel: grpc.aio.Channel | None = None  # it belongs to the loop in which it is made
        self._calls: dict[str, Callable[..., Any]] = {}

    async def send(self, call: Call[T], timeout: float) -> T:
        """Send it once."""
        if self._channel is None:
            self._channel = (
                grpc.aio.secure_channel(self._address, self._credentials, options=_OPTIONS)
                if self._credentials
                else grpc.aio.insecure_channel(self._address, options=_OPTIONS)
            )
            self._calls = _stubs(self._channel)
        try:
            answer = await self._calls[call.method](call.request, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise serving_error(error.code().name, error.details() or "", call.where) from error
        return call.heard(answer)

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()


def _stubs(channel: Any) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for path in CLIENT_METHODS:
        request, response = METHODS[path]
        found[path.rpartition("/")[2]] = channel.unary_unary(
            path, request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
    return found


def _spec(target: Target) -> Any:
    spec = ModelSpec(name=target.model)
    if target.version is not None:
        spec.version.value = target.version
    elif target.label is not None:
        spec.version_label = target.label
    return spec


def _prediction(response: Any) -> Prediction:
    return Prediction(
        {name: to_numpy(proto) for name, proto in response.outputs.items()}, response.model_spec.version.value
    )


def _statuses(response: Any) -> list[VersionStatus]:
    found = [
        VersionStatus(
            entry.version,
            _STATE_NAMES.get(entry.state, str(entry.state)),
            _CODE_NAMES.get(entry.status.error_code, str(entry.status.error_code)),
            entry.status.error_message,
        )
        for entry in response.model_version_status
    ]
    return sorted(found, key=lambda status: status.version, reverse=True)


def _metadata(response: Any, where: str) -> ModelMetadata:
    signatures = SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    if DEFAULT_SIGNATURE not in signatures.signature_def:
        known = ", ".join(sorted(signatures.signature_def)) or "none"
        raise serving_error("FAILED_PRECONDITION", f"no signature {DEFAULT_SIGNATURE!r}; it has: {known}", where)
    signature = signatures.signature_def[DEFAULT_SIGNATURE]
    return ModelMetadata(
        response.model_spec.version.value,
        {name: type_name(info.dtype) for name, info in sorted(signature.inputs.items())},
        {name: type_name(info.dtype) for name, info in sorted(signature.outputs.items())},
    )
