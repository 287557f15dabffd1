"""The calls of the protocol, as functions of messages. gRPC and REST both end up here."""

from __future__ import annotations

from typing import Any

from airflow_ml.serving.protos.messages import (
    ERROR_CODES,
    VERSION_STATES,
    GetModelMetadataResponse,
    GetModelStatusResponse,
    PredictResponse,
    ReloadConfigResponse,
    SignatureDef,
    SignatureDefMap,
)
from airflow_ml.serving.protos.tensors import to_proto
from airflow_ml.serving.server.core import Core
from airflow_ml.serving.server.status import Code, invalid

_METADATA = "signature_def"


def predict(core: Core, request: Any) -> Any:
    """Answer a ``PredictRequest``."""
    spec = request.model_spec
    with core.borrow(spec) as (version, servable):
        outputs = servable.predict(request.inputs, spec.signature_name, list(request.output_filter))
        response = PredictResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = version
        response.model_spec.signature_name = servable.signature(spec.signature_name).name
    for name, array in outputs.items():
        response.outputs[name].CopyFrom(to_proto(array))
    return response


def get_model_metadata(core: Core, request: Any) -> Any:
    """The signatures of a version."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for name in request.metadata_field:
        if name != _METADATA:
            raise invalid(f"Metadata field {name} is not supported")
    response, signatures = GetModelMetadataResponse(), SignatureDefMap()
    with core.borrow(request.model_spec) as (version, servable):
        for name, definition in servable.signature_defs.items():
            signatures.signature_def[name].CopyFrom(SignatureDef.FromString(definition))
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = version
    response.metadata[_METADATA].Pack(signatures)
    return response


def get_model_status(core: Core, request: Any) -> Any:
    """The states of a model's versions."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    response = GetModelStatusResponse()
    for number, status in core.statuses(request.model_spec):
        entry = response.model_version_status.add(version=number, state=VERSION_STATES[status.state.value])
        entry.status.error_code = ERROR_CODES[status.code.name]
        entry.status.error_message = status.message
    return response


def reload_config(core: Core, request: Any, timeout: float | None) -> Any:
    """Replace the configuration."""
    core.reload(request.config, timeout)
    response = ReloadConfigResponse()
    response.status.error_code = ERROR_CODES[Code.OK.name]
    return response
