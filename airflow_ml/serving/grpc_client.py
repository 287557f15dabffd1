"""The gRPC client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import grpc

from airflow_ml.serving.client import DEADLINE, Client, ModelMetadata, Prediction, VersionStatus
from airflow_ml.serving.errors import serving_error
from airflow_ml.serving.protos.messages import (
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
from airflow_ml.serving.protos.tensors import to_numpy, to_proto, type_name
from airflow_ml.serving.saved_model import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    import numpy as np

_STATE_NAMES = {number: name for name, number in VERSION_STATES.items()}
_CODE_NAMES = {number: name for name, number in ERROR_CODES.items()}


class GrpcClient(Client):
    """A model server over gRPC.

    Args:
        address: ``host:port``.
        deadline: How long a call may take, in seconds.
    """

    def __init__(self, address: str, deadline: float = DEADLINE) -> None:
        super().__init__(f"grpc://{address}", deadline)
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.enable_retries", 0),  # we retry ourselves, so that the count is ours
                ("grpc.enable_http_proxy", 0),  # a proxy of the environment is for the outside world
            ],
        )
        self._calls = {
            path.rpartition("/")[2]: self._channel.unary_unary(
                path, request_serializer=request.SerializeToString, response_deserializer=response.FromString
            )
            for path, (request, response) in METHODS.items()
        }

    def reload(self, config: Any, timeout: float = 60.0) -> None:
        """Replace the server's whole configuration.

        Args:
            config: ``ModelServerConfig``. A model that it leaves out is unloaded.
            timeout: The server waits for new models; this long at most, in seconds.

        Raises:
            RequestRefused: the server keeps its old configuration.
        """
        request = ReloadConfigRequest(config=config)
        response = self._call("HandleReloadConfigRequest", request, f"{self.address} reload", timeout)
        if response.status.error_code:  # some builds answer OK and say it here
            code = _CODE_NAMES.get(response.status.error_code, "UNKNOWN")
            raise serving_error(code, response.status.error_message, f"{self.address} reload")

    def _predict(
        self,
        model: str,
        columns: Mapping[str, np.ndarray[Any, Any]],
        version: int | None,
        label: str | None,
        timeout: float,
    ) -> Prediction:
        request = PredictRequest(model_spec=_spec(model, version, label))
        request.model_spec.signature_name = DEFAULT_SIGNATURE
        for name, column in columns.items():
            request.inputs[name].CopyFrom(to_proto(column))
        response = self._call("Predict", request, self.where(model, version, label), timeout)
        outputs = {name: to_numpy(proto) for name, proto in response.outputs.items()}
        return Prediction(outputs, response.model_spec.version.value)

    def _status(self, model: str, version: int | None, timeout: float) -> list[VersionStatus]:
        request = GetModelStatusRequest(model_spec=_spec(model, version, None))
        response = self._call("GetModelStatus", request, self.where(model, version), timeout)
        return [
            VersionStatus(
                entry.version,
                _STATE_NAMES.get(entry.state, str(entry.state)),
                _CODE_NAMES.get(entry.status.error_code, str(entry.status.error_code)),
                entry.status.error_message,
            )
            for entry in response.model_version_status
        ]

    def _metadata(self, model: str, version: int | None, label: str | None, timeout: float) -> ModelMetadata:
        request = GetModelMetadataRequest(model_spec=_spec(model, version, label), metadata_field=["signature_def"])
        response = self._call("GetModelMetadata", request, self.where(model, version, label), timeout)
        signatures = SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        signature = signatures.signature_def[DEFAULT_SIGNATURE]
        return ModelMetadata(
            response.model_spec.version.value,
            {name: type_name(info.dtype) for name, info in sorted(signature.inputs.items())},
            {name: type_name(info.dtype) for name, info in sorted(signature.outputs.items())},
        )

    def _call(self, method: str, request: Any, where: str, timeout: float) -> Any:
        try:
            return self._calls[method](request, timeout=timeout)
        except grpc.RpcError as error:
            raise serving_error(error.code().name, error.details() or "", where) from error

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def _spec(model: str, version: int | None, label: str | None) -> Any:
    spec = ModelSpec(name=model)
    if version is not None:
        spec.version.value = version
    elif label is not None:
        spec.version_label = label
    return spec
