"""Our messages against ``tensorflow-serving-api``: the same bytes, in one process."""

import numpy as np
import pytest
from google.protobuf import text_format

from airflow_ml.serving.protos import messages, tensors

pytestmark = pytest.mark.slow

CONFIG = (
    'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" '
    "model_version_policy { specific { versions: 1 versions: 2 } } "
    'version_labels { key: "stable" value: 1 } } }'
)
ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.arange(3, dtype=np.float64),
    np.array([-1, 2**62], dtype=np.int64),
    np.array([1, 2], dtype=np.int32),
    np.array([True, False]),
    np.array([1, 255], dtype=np.uint8),
    np.array(["a", None, "é", b"\xff"], dtype=object),
    np.array(["ab", "c"]),
    np.zeros((0,), dtype=np.float32),
    np.array(3, dtype=np.int64),
]


@pytest.fixture(scope="module")
def apis():
    """The reference, which imports TensorFlow."""
    from airflow_ml.serving.engines import tensorflow

    tensorflow()
    from tensorflow_serving import apis as package
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        inference_pb2,
        model_management_pb2,
        predict_pb2,
        prediction_log_pb2,
        regression_pb2,
    )

    assert package
    return {
        "PredictRequest": predict_pb2.PredictRequest,
        "PredictResponse": predict_pb2.PredictResponse,
        "GetModelMetadataRequest": get_model_metadata_pb2.GetModelMetadataRequest,
        "GetModelMetadataResponse": get_model_metadata_pb2.GetModelMetadataResponse,
        "SignatureDefMap": get_model_metadata_pb2.SignatureDefMap,
        "GetModelStatusRequest": get_model_status_pb2.GetModelStatusRequest,
        "GetModelStatusResponse": get_model_status_pb2.GetModelStatusResponse,
        "ReloadConfigRequest": model_management_pb2.ReloadConfigRequest,
        "ReloadConfigResponse": model_management_pb2.ReloadConfigResponse,
        "PredictionLog": prediction_log_pb2.PredictionLog,
        "ClassificationRequest": classification_pb2.ClassificationRequest,
        "ClassificationResponse": classification_pb2.ClassificationResponse,
        "RegressionRequest": regression_pb2.RegressionRequest,
        "RegressionResponse": regression_pb2.RegressionResponse,
        "MultiInferenceRequest": inference_pb2.MultiInferenceRequest,
        "MultiInferenceResponse": inference_pb2.MultiInferenceResponse,
    }


def test_the_descriptors_are_those_of_the_installed_package(apis):
    from airflow_ml.serving.protos.build import DESCRIPTORS, collect

    assert DESCRIPTORS.read_bytes() == collect(), "run python -m airflow_ml.serving.protos.build"


SPEC = 'model_spec { name: "m" version { value: 7 } signature_name: "serving_default" } '
EXAMPLES = (
    'input { example_list { examples { features { feature { key: "x" value { float_list { value: 2 } } } } } } } '
)
REGRESSED = "regressions { value: 0.5 }"
CLASSIFIED = 'classifications { classes { label: "a" score: 0.5 } }'
SENT = {
    "PredictRequest": SPEC
    + 'inputs { key: "x" value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: 1.5 } } '
    + 'inputs { key: "s" value { dtype: DT_STRING tensor_shape { dim { size: 1 } } string_val: "a" } } '
    + 'output_filter: "probability"',
    "PredictResponse": SPEC
    + 'outputs { key: "p" value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: 0.5 } }',
    "GetModelMetadataRequest": 'model_spec { name: "m" version_label: "stable" } metadata_field: "signature_def"',
    "GetModelStatusRequest": 'model_spec { name: "m" version { value: 7 } }',
    "GetModelMetadataResponse": 'model_spec { name: "m" version { value: 7 } } metadata { key: "signature_def" value { '
    'type_url: "type.googleapis.com/tensorflow.serving.SignatureDefMap" value: "\\x0a\\x00" } }',
    "ClassificationRequest": SPEC + EXAMPLES,
    "ClassificationResponse": f"{SPEC} result {{ {CLASSIFIED} }}",
    "RegressionRequest": SPEC + EXAMPLES,
    "RegressionResponse": f"{SPEC} result {{ {REGRESSED} }}",
    "MultiInferenceRequest": f'tasks {{ {SPEC} method_name: "tensorflow/serving/regress" }} {EXAMPLES}',
    "MultiInferenceResponse": f"results {{ {SPEC} regression_result {{ {REGRESSED} }} }} "
    f"results {{ {SPEC} classification_result {{ {CLASSIFIED} }} }}",
    "GetModelStatusResponse": "model_version_status { version: 7 state: END status { error_code: NOT_FOUND } }",
    "ReloadConfigRequest": f"config {{ {CONFIG} }}",
    "ReloadConfigResponse": "status { error_code: FAILED_PRECONDITION error_message: 'no' }",
    "PredictionLog": f"predict_log {{ request {{ {SPEC} }} }}",
}


@pytest.mark.parametrize("name", SENT)
def test_the_same_text_gives_the_same_bytes_both_ways(apis, name):
    theirs = text_format.Parse(SENT[name], apis[name]())
    ours = text_format.Parse(SENT[name], getattr(messages, name)())
    wire = theirs.SerializeToString(deterministic=True)
    assert ours.SerializeToString(deterministic=True) == wire
    assert type(ours) is not type(theirs)
    assert type(ours).FromString(wire) == ours
    assert apis[name].FromString(ours.SerializeToString()) == theirs


def test_no_message_of_the_protocol_is_left_out():
    spoken = {kind.DESCRIPTOR.name for pair in messages.METHODS.values() for kind in pair}
    assert spoken | {"PredictionLog"} == set(SENT)


COLUMNS = {
    "f": np.array([1.5, -2.0], dtype=np.float32),
    "i": np.array([1, 2**40], dtype=np.int64),
    "s": np.array(["a", "é"], dtype=object),
}
TARGETS = [({}, ""), ({"version": 7}, "version { value: 7 }"), ({"label": "stable"}, 'version_label: "stable"')]


@pytest.mark.parametrize(("target", "chosen"), TARGETS, ids=["newest", "version", "label"])
def test_what_the_client_sends_is_what_googles_package_would_send(apis, target, chosen):
    """Every request of the client, byte by byte, made by TensorFlow's own functions beside it in one process."""
    from airflow_ml.serving.calls import Target
    from airflow_ml.serving.engines import tensorflow
    from airflow_ml.serving.grpc_client import GrpcSpeaker

    tf = tensorflow()
    speaker, asked = GrpcSpeaker("grpc://x"), Target("m", **target)
    spec = f'name: "m" {chosen}'

    def equal(call, name, text):
        theirs = text_format.Parse(text, apis[name]())
        if name == "PredictRequest":
            for column, array in COLUMNS.items():
                theirs.inputs[column].CopyFrom(tf.make_tensor_proto(array))
        assert type(call.request).DESCRIPTOR.full_name == apis[name].DESCRIPTOR.full_name
        assert call.request.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)

    equal(
        speaker.predict(asked, COLUMNS), "PredictRequest",
        f'model_spec {{ {spec} signature_name: "serving_default" }}',
    )  # fmt: skip
    equal(
        speaker.metadata(asked), "GetModelMetadataRequest", f'model_spec {{ {spec} }} metadata_field: "signature_def"'
    )
    equal(speaker.status(asked), "GetModelStatusRequest", f"model_spec {{ {spec} }}")
    config = text_format.Parse(CONFIG, messages.ModelServerConfig())
    equal(speaker.reload(config), "ReloadConfigRequest", f"config {{ {CONFIG} }}")


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{list(array.shape)}")
def test_what_the_server_answers_is_read_by_tensorflow(apis, array):
    from airflow_ml.serving.engines import tensorflow

    proto = messages.TensorProto()
    tensors.to_field_proto(array, proto)
    assert not proto.tensor_content
    reference = apis["PredictRequest"]()
    reference.inputs["x"].ParseFromString(proto.SerializeToString())
    theirs = tensorflow().make_ndarray(reference.inputs["x"])
    np.testing.assert_array_equal(tensors.to_numpy(proto), theirs)
    assert theirs.shape == array.shape


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{list(array.shape)}")
def test_tensors_are_read_as_tensorflow_reads_them(apis, array):
    from airflow_ml.serving.engines import tensorflow

    tf = tensorflow()
    proto = tensors.to_proto(array)
    reference = apis["PredictRequest"]()
    reference.inputs["x"].ParseFromString(proto.SerializeToString())
    theirs = tf.make_ndarray(reference.inputs["x"])
    ours = tensors.to_numpy(proto)
    assert ours.shape == theirs.shape == array.shape
    np.testing.assert_array_equal(ours, theirs)
    if array.dtype in (np.float32, np.int64) and array.size > 1:
        assert proto.SerializeToString() == tf.make_tensor_proto(array).SerializeToString()
    elif array.dtype.kind in "OU":
        assert proto.SerializeToString() == tf.make_tensor_proto(theirs).SerializeToString()


@pytest.mark.parametrize(
    ("dtype", "field"),
    [
        ("float32", "float_val"),
        ("float64", "double_val"),
        ("int32", "int_val"),
        ("int64", "int64_val"),
        ("bool", "bool_val"),
    ],
)
def test_typed_fields_are_read_too(dtype, field):
    """The real server answers with ``float_val`` and its like, where one value may stand for all."""
    array = np.array([[0, 1], [1, 1]], dtype=dtype)
    proto = tensors.to_proto(array)
    proto.tensor_content = b""
    getattr(proto, field).extend(array.ravel().tolist())
    np.testing.assert_array_equal(tensors.to_numpy(proto), array)
    del getattr(proto, field)[2:]
    np.testing.assert_array_equal(tensors.to_numpy(proto), array)


def test_what_does_not_fill_its_shape_is_refused():
    proto = tensors.to_proto(np.zeros(4, dtype=np.float32))
    proto.tensor_content = proto.tensor_content[:-4]
    assert len(tensors.to_numpy(proto)) == 4  # the last value stands for the rest
    proto.tensor_content = b""
    with pytest.raises(ValueError, match="needs 4 values, got 0"):
        tensors.to_numpy(proto)
    with pytest.raises(TypeError, match="datetime64"):
        tensors.to_proto(np.zeros(1, dtype="datetime64[s]"))
