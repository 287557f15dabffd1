"""Classify, Regress and MultiInference over gRPC and REST, and what they refuse, in TF Serving's words.

The model and most of what is asked are those of the tests of ``tensorflow_model_server`` itself.
"""

import base64
import gzip
import re

import grpc
import pytest
import requests

from airflow_ml.serving.engines import tensorflow
from airflow_ml.serving.saved_model import Signature, TensorInfo
from airflow_ml.serving.server.inference import CLASSIFY, REGRESS, check
from airflow_ml.serving.server.status import StatusError
from tests.contract.conftest import LIMIT

tf = tensorflow()

from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    inference_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def asking(message, signature="", model="half", x=(2.0,)):
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    for value in x:
        message.input.example_list.examples.add().features.feature["x"].float_list.value.append(value)
    return message


def test_regress(stub):
    answer = stub.Regress(asking(regression_pb2.RegressionRequest(), "regress_x_to_y", x=(2.0, 4.0)), timeout=20)
    assert [entry.value for entry in answer.result.regressions] == [3.0, 4.0]
    assert answer.model_spec.name == "half"
    assert answer.model_spec.version.value == 123
    assert answer.model_spec.signature_name == "regress_x_to_y"


def test_classify(stub):
    answer = stub.Classify(asking(classification_pb2.ClassificationRequest(), "classify_x_to_y"), timeout=20)
    ((only,),) = [entry.classes for entry in answer.result.classifications]
    assert (only.label, only.score) == ("", 3.0)
    assert answer.model_spec.signature_name == "classify_x_to_y"


def test_an_example_inherits_from_its_context(stub):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "half", "regress_x_to_y"
    context = request.input.example_list_with_context
    context.context.features.feature["x"].float_list.value.append(2.0)
    context.examples.add()
    context.examples.add().features.feature["x"].float_list.value.append(6.0)
    assert [entry.value for entry in stub.Regress(request, timeout=20).result.regressions] == [3.0, 5.0]


def tasks(*pairs, model="half"):
    request = inference_pb2.MultiInferenceRequest()
    for method, signature in pairs:
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = model, signature
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(2.0)
    return request


def test_multi_inference(stub):
    answer = stub.MultiInference(tasks(("regress", "regress_x_to_y"), ("classify", "classify_x_to_y")), timeout=20)
    assert answer.results[0].regression_result.regressions[0].value == 3.0
    assert answer.results[1].classification_result.classifications[0].classes[0].score == 3.0
    assert [result.model_spec.version.value for result in answer.results] == [123, 123]


def test_signatures_of_tensorflow_2_which_are_all_declared_as_predict(stub):
    answer = stub.Regress(asking(regression_pb2.RegressionRequest(), "regress_x_to_y", "kinds"), timeout=20)
    assert [entry.value for entry in answer.result.regressions] == [3.0]
    answer = stub.Classify(asking(classification_pb2.ClassificationRequest(), "classify_x_to_y", "kinds"), timeout=20)
    assert answer.result.classifications[0].classes[0].score == 3.0
    both = tasks(("regress", "regress_x_to_y"), ("classify", "classify_x_to_y"), model="kinds")
    answer = stub.MultiInference(both, timeout=20)
    assert answer.results[0].regression_result.regressions[0].value == 3.0
    assert answer.results[1].classification_result.classifications[0].classes[0].score == 3.0
    assert [result.model_spec.signature_name for result in answer.results] == ["regress_x_to_y", "classify_x_to_y"]


@pytest.mark.parametrize(("method", "kind"), [(CLASSIFY, "classification"), (REGRESS, "regression")])
def test_the_declared_method_is_checked_where_that_is_asked_for(method, kind):
    info = TensorInfo("inputs", "inputs:0", 7, (-1,))
    made_for = Signature("s", "tensorflow/serving/predict", {"inputs": info}, {"scores": info})
    says = f"Expected {kind} signature method_name to be {method}. Was: tensorflow/serving/predict"
    with pytest.raises(StatusError, match=re.escape(says)):
        check(made_for, method, named=True)


INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
UNFIT = grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("method", "request_", "code", "says"),
    [
        ("Regress", asking(regression_pb2.RegressionRequest(), "none"), INVALID,
         "No signature was found with the name: none"),
        ("Regress", asking(regression_pb2.RegressionRequest(), "classify_x_to_y"), UNFIT,
         "No regression outputs found in SignatureDef: classify_x_to_y"),
        ("Classify", asking(classification_pb2.ClassificationRequest()), UNFIT,
         "No classification inputs found in SignatureDef: serving_default"),
        ("Classify", asking(classification_pb2.ClassificationRequest(), "classify_x_to_y", x=()), INVALID,
         "Input is empty."),
        ("Classify", asking(classification_pb2.ClassificationRequest(), model="nobody"), MISSING,
         "Servable not found for request: Latest(nobody)"),
        ("MultiInference", tasks(("regress", "regress_x_to_y"), ("regress", "regress_x_to_y")), INVALID,
         "Duplicate evaluation of signature: regress_x_to_y"),
        ("MultiInference", tasks(("regress", "none")), INVALID,
         "Requested signature not found in model graph: none"),
        ("MultiInference", tasks(("predict", "serving_default")), grpc.StatusCode.UNIMPLEMENTED,
         "Unsupported signature method_name: tensorflow/serving/predict"),
        ("MultiInference", tasks(("regress", ""), model=""), INVALID, "Found ModelSpec with an empty model name."),
    ],
)  # fmt: skip
def test_what_does_not_fit(stub, method, request_, code, says):
    with pytest.raises(grpc.RpcError) as refused:
        getattr(stub, method)(request_, timeout=20)
    assert (refused.value.code(), refused.value.details()) == (code, says)


@pytest.mark.parametrize("shape", [(1,), (1, 1), ()])
def test_a_shape_that_the_graph_can_take_is_taken(stub, shape):
    """TF Serving compares types, not shapes: the graph decides."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half"
    tensor = request.inputs["x"]
    tensor.dtype = 1
    tensor.float_val.append(2.0)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    answer = stub.Predict(request, timeout=20)
    assert list(answer.outputs["y"].float_val) == [3.0]
    assert [dim.size for dim in answer.outputs["y"].tensor_shape.dim] == list(shape)


def test_rarer_types(stub):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "kinds", "rare"
    for name, dtype in (("h", tf.float16), ("b", tf.bfloat16), ("c", tf.complex64)):
        request.inputs[name].CopyFrom(tf.make_tensor_proto([1.5, 2.0], dtype=dtype))
    outputs = stub.Predict(request, timeout=20).outputs
    for name in "hbc":
        assert outputs[name].dtype == request.inputs[name].dtype
        assert tf.make_ndarray(outputs[name]).tolist() == [3.0, 4.0]


@pytest.mark.parametrize("sizes", [(400_000_000,), (10**10,), (2**62, 2**62)])
def test_few_bytes_that_claim_to_be_many_are_refused_at_once(stub, sizes):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half"
    request.inputs["x"].dtype = 1
    request.inputs["x"].float_val.append(2.0)
    for size in sizes:
        request.inputs["x"].tensor_shape.dim.add(size=size)
    with pytest.raises(grpc.RpcError) as refused:
        stub.Predict(request, timeout=20)
    assert (refused.value.code(), refused.value.details()) == (INVALID, "tensor parsing error: x")


def test_over_a_unix_socket(server):
    with grpc.insecure_channel(f"unix:{server.socket}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Regress(asking(regression_pb2.RegressionRequest(), "regress_x_to_y"), timeout=20)
    assert answer.result.regressions[0].value == 3.0


# --- REST -----------------------------------------------------------------------------------------------------------


def post(server, path, document):
    answer = requests.post(f"{server.rest}/v1/models/{path}", json=document, timeout=20)
    return answer.status_code, answer.json()


@pytest.mark.parametrize("target", ["half", "half/versions/123", "half/labels/stable"])
def test_over_rest(server, target):
    examples = {"examples": [{"x": 2.0}, {"x": [4.0]}]}
    assert post(server, f"{target}:regress", {"signature_name": "regress_x_to_y"} | examples) == (
        200, {"results": [3.0, 4.0]},
    )  # fmt: skip
    assert post(server, f"{target}:classify", {"signature_name": "classify_x_to_y"} | examples) == (
        200, {"results": [[["", 3.0]], [["", 4.0]]]},
    )  # fmt: skip
    assert post(server, f"{target}:predict", {"instances": [2.0, 3.0, 4.0]}) == (200, {"predictions": [3.0, 3.5, 4.0]})
    assert post(server, f"{target}:predict", {"inputs": [2.0, 3.0, 4.0]}) == (200, {"outputs": [3.0, 3.5, 4.0]})


def test_in_chunks_and_zipped(server):
    def chunks():
        yield b'{"instances": '
        yield b"[2.0]}"

    url = f"{server.rest}/v1/models/half:predict"
    with requests.Session() as session:
        for body, headers in ((chunks(), {}), (gzip.compress(b'{"instances": [2.0]}'), {"Content-Encoding": "gzip"})):
            answer = session.post(url, data=body, headers=headers, timeout=20)
            assert (answer.status_code, answer.json()) == (200, {"predictions": [3.0]})


def test_a_context_over_rest(server):
    document = {"signature_name": "regress_x_to_y", "context": {"x": 2.0}, "examples": [{}, {"x": 6.0}]}
    assert post(server, "half:regress", document) == (200, {"results": [3.0, 5.0]})


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": 1}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
        ({"examples": [{"x": [[1.0]]}]}, "Feature: x has element with unexpected JSON type: Array"),
        ({"examples": [{"x": {"a": 1}}]}, "Feature: x has element with unexpected JSON type: Object"),
        ({"examples": [{"x": [1.0, "a"]}]}, "Unexpected element type in feature: x expecting type: float"),
        ({"examples": [{"x": 2**63}]}, "Feature: x has uint64 element. Only int64 is supported."),
        ({"examples": [{"x": {"b64": "?"}}]}, "Unable to base64 decode"),
        ({"examples": [{"x": 2}]}, "Data type: int64 but expected type: float"),
        ({"examples": [{"x": {"b64": base64.b64encode(b"a").decode()}}]}, "Data type: string but expected type: float"),
        ({"examples": [{"x": 2.0}], "signature_name": "none"}, "No signature was found with the name: none"),
    ],
)
def test_what_does_not_fit_over_rest(server, document, says):
    status, answer = post(server, "half:regress", {"signature_name": "regress_x_to_y"} | document)
    assert status == 400
    assert says in answer["error"]


# --- limits, time, metrics ------------------------------------------------------------------------------------------


def test_a_message_that_is_too_long(server, stub):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half"
    request.inputs["x"].tensor_content = bytes(LIMIT + 1)
    with pytest.raises(grpc.RpcError) as refused:
        stub.Predict(request, timeout=20)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "message larger than max" in refused.value.details()
    assert stub.Regress(asking(regression_pb2.RegressionRequest(), "regress_x_to_y"), timeout=20).result.regressions


def test_metrics_have_tf_servings_names_and_count_what_was_asked(server, stub):
    def value(line):
        page = requests.get(f"{server.rest}/metrics", timeout=20)
        assert page.headers["content-type"] == "text/plain"
        found = [entry for entry in page.text.splitlines() if entry.startswith(line)]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    ok = ':tensorflow:serving:request_count{model_name="half",status="OK"}'
    refused = ':tensorflow:serving:request_count{model_name="half",status="INVALID_ARGUMENT"}'
    grpc_count = ':tensorflow:serving:request_latency_count{model_name="half",API="Regress",entrypoint="GRPC"}'
    rest_count = ':tensorflow:serving:request_latency_count{model_name="half",API="Predict",entrypoint="REST"}'
    runtime = ':tensorflow:serving:runtime_latency_count{model_name="half",API="Regress",runtime="TF1"}'
    before = [value(line) for line in (ok, refused, grpc_count, rest_count, runtime)]
    stub.Regress(asking(regression_pb2.RegressionRequest(), "regress_x_to_y"), timeout=20)
    post(server, "half:predict", {"instances": [2.0]})
    post(server, "half:predict", {"instances": ["a"]})
    after = [value(line) for line in (ok, refused, grpc_count, rest_count, runtime)]
    assert [a - b for a, b in zip(after, before, strict=True)] == [2, 1, 1, 1, 1]
    page = requests.get(f"{server.rest}/metrics", timeout=20).text
    assert "# TYPE :tensorflow:serving:request_latency histogram" in page
    assert 'le="+Inf"' in page
    assert ":tensorflow:cc:saved_model:load_attempt_count{" in page
    assert ":tensorflow:serving:model_warmup_latency_count{" in page
    assert requests.get(f"{server.rest}/monitoring/prometheus/metrics", timeout=20).status_code == 404
