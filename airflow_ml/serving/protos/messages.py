"""The message classes of TF Serving's protocol.

They come from ``descriptors.binpb`` through a ``DescriptorPool`` of their own. In protobuf's default pool they would
collide with TensorFlow's own copies as soon as both are in one process, which is the case in the model server and in
the export stage.

A message of this module and one of ``tensorflow_serving.apis`` are of different classes with the same bytes: pass bytes
between the two worlds, never messages.

Source: https://protobuf.dev/reference/python/api-docs/google/protobuf/descriptor_pool.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass


def _load() -> DescriptorPool:
    pool = DescriptorPool()
    files = FileDescriptorSet.FromString(Path(__file__).with_name("descriptors.binpb").read_bytes())
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = _load()


def message(full_name: str) -> Any:
    """The class of the message ``full_name``, for example ``tensorflow.serving.PredictRequest``."""
    return GetMessageClass(POOL.FindMessageTypeByName(full_name))


def enum_numbers(full_name: str) -> dict[str, int]:
    """Name → number of the enum ``full_name``."""
    return {value.name: value.number for value in POOL.FindEnumTypeByName(full_name).values}


def _inputs_as_bytes() -> Any:
    """The class of a ``PredictRequest`` of which only the inputs are read, each as the bytes of its tensor."""
    kinds = FieldDescriptorProto
    file = FileDescriptorProto(name="predict_inputs.proto", package="airflow_ml", syntax="proto3")
    described = file.message_type.add(name="PredictInputs")
    entry = described.nested_type.add(name="InputsEntry", options={"map_entry": True})
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=kinds.TYPE_BYTES, label=kinds.LABEL_OPTIONAL)
    described.field.add(
        name="inputs",
        number=PredictRequest.DESCRIPTOR.fields_by_name["inputs"].number,
        type=kinds.TYPE_MESSAGE,
        label=kinds.LABEL_REPEATED,
        type_name=".airflow_ml.PredictInputs.InputsEntry",
    )
    POOL.AddSerializedFile(file.SerializeToString())
    return message("airflow_ml.PredictInputs")


TensorProto = message("tensorflow.TensorProto")
SignatureDef = message("tensorflow.SignatureDef")
Example = message("tensorflow.Example")
ModelSpec = message("tensorflow.serving.ModelSpec")
PredictRequest = message("tensorflow.serving.PredictRequest")
PredictInputs = _inputs_as_bytes()
PredictResponse = message("tensorflow.serving.PredictResponse")
PredictionLog = message("tensorflow.serving.PredictionLog")
GetModelMetadataRequest = message("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse = message("tensorflow.serving.GetModelMetadataResponse")
SignatureDefMap = message("tensorflow.serving.SignatureDefMap")
ClassificationRequest = message("tensorflow.serving.ClassificationRequest")
ClassificationResponse = message("tensorflow.serving.ClassificationResponse")
RegressionRequest = message("tensorflow.serving.RegressionRequest")
RegressionResponse = message("tensorflow.serving.RegressionResponse")
MultiInferenceRequest = message("tensorflow.serving.MultiInferenceRequest")
MultiInferenceResponse = message("tensorflow.serving.MultiInferenceResponse")
GetModelStatusRequest = message("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse = message("tensorflow.serving.GetModelStatusResponse")
ModelVersionStatus = message("tensorflow.serving.ModelVersionStatus")
ReloadConfigRequest = message("tensorflow.serving.ReloadConfigRequest")
ReloadConfigResponse = message("tensorflow.serving.ReloadConfigResponse")
ModelServerConfig = message("tensorflow.serving.ModelServerConfig")
ModelConfig = message("tensorflow.serving.ModelConfig")

DATA_TYPES = enum_numbers("tensorflow.DataType")
VERSION_STATES = enum_numbers("tensorflow.serving.ModelVersionStatus.State")
ERROR_CODES = enum_numbers("tensorflow.error.Code")

_PREDICTION = "/tensorflow.serving.PredictionService/"
_MODEL = "/tensorflow.serving.ModelService/"

#: gRPC path → (request class, response class): what the server speaks.
METHODS: dict[str, tuple[Any, Any]] = {
    f"{_PREDICTION}Predict": (PredictRequest, PredictResponse),
    f"{_PREDICTION}Classify": (ClassificationRequest, ClassificationResponse),
    f"{_PREDICTION}Regress": (RegressionRequest, RegressionResponse),
    f"{_PREDICTION}MultiInference": (MultiInferenceRequest, MultiInferenceResponse),
    f"{_PREDICTION}GetModelMetadata": (GetModelMetadataRequest, GetModelMetadataResponse),
    f"{_MODEL}GetModelStatus": (GetModelStatusRequest, GetModelStatusResponse),
    f"{_MODEL}HandleReloadConfigRequest": (ReloadConfigRequest, ReloadConfigResponse),
}

#: Those of them that the client asks.
CLIENT_METHODS = (
    f"{_PREDICTION}Predict",
    f"{_PREDICTION}GetModelMetadata",
    f"{_MODEL}GetModelStatus",
    f"{_MODEL}HandleReloadConfigRequest",
)
