"""The calls of the protocol, as functions of messages. gRPC and REST both end up here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from airflow_ml.serving.protos.messages import (
    ERROR_CODES,
    VERSION_STATES,
    GetModelMetadataResponse,
    GetModelStatusResponse,
    ReloadConfigResponse,
    SignatureDef,
    SignatureDefMap,
)
from airflow_ml.serving.protos.tensors import StandsForMore
from airflow_ml.serving.server.core import Core
from airflow_ml.serving.server.pace import SMALL_BYTES
from airflow_ml.serving.server.servable import Servable
from airflow_ml.serving.server.status import Code, StatusError, invalid, of_exception

_METADATA = "signature_def"


INFERENCES: Mapping[str, Callable[[Servable, Any], Any]] = {
    "Predict": Servable.predict,
    "Classify": Servable.classify,
    "Regress": Servable.regress,
    "MultiInference": Servable.multi_inference,
}
"""gRPC's names of the calls that ask a version."""


def spec_of(request: Any) -> Any:
    """The ``ModelSpec`` of an inference; of several tasks, the first one's, which all must share.

    Raises:
        StatusError: the tasks name none, or several models.
    """
    if not hasattr(request, "tasks"):
        return request.model_spec
    names = [task.model_spec.name for task in request.tasks]
    if not names:
        raise invalid("At least one task is needed in a MultiInferenceRequest.")
    if not all(names):
        raise invalid("Found ModelSpec with an empty model name.")
    if len(set(names)) > 1:
        raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    return request.tasks[0].model_spec


@contextmanager
def measured(core: Core, model: str, api: str, entrypoint: str) -> Iterator[None]:
    """Count a request: its status always, its time if it was answered."""
    began = time.perf_counter()
    try:
        yield
    except Exception as error:
        core.metrics.requests.add(model, of_exception(error).code.name)
        raise
    core.metrics.latency.observe((time.perf_counter() - began) * 1e6, model, api, entrypoint)
    core.metrics.requests.add(model, Code.OK.name)


def predict_together(core: Core, requests: Sequence[Any]) -> list[Any]:
    """Answer several ``PredictRequest`` of one ``ModelSpec``: each answer, or the error in its place.

    What does not fit together, or fails together, is asked one by one: nobody's mistake is another's. What would become
    large is left to the caller, as `StandsForMore`.

    Raises:
        StatusError: no such model, version or label.
    """
    with core.lend(requests[0].model_spec) as servable:
        if len(requests) > 1:
            try:
                answers = servable.predict_together(requests)
            except StatusError:
                answers = None
            if answers is not None:
                return answers
        return [_or_error(servable, request) for request in requests]


def _or_error(servable: Servable, request: Any) -> Any:
    try:
        return servable.predict(request, SMALL_BYTES)
    except (StatusError, StandsForMore) as error:
        return error


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
    with core.lend(request.model_spec) as servable:
        for name, definition in servable.signature_defs.items():
            signatures.signature_def[name].CopyFrom(SignatureDef.FromString(definition))
        response.model_spec.version.value = servable.number
    response.model_spec.name = request.model_spec.name
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
