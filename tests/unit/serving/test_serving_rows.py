"""A request of one row read from its bytes: the same as from its message, or not at all."""

import numpy as np
import pytest

from airflow_ml.serving.protos.messages import DATA_TYPES, PredictRequest
from airflow_ml.serving.protos.single import tensors_of, values_of
from airflow_ml.serving.protos.tensors import to_field_proto, to_proto
from airflow_ml.serving.saved_model import Signature, TensorInfo
from airflow_ml.serving.server.rows import RowReader

KINDS = {"b": "DT_BOOL", "n": "DT_INT64", "s": "DT_STRING", "t": "DT_STRING", "x": "DT_FLOAT", "y": "DT_FLOAT"}


def reader(kinds):
    inputs = {name: TensorInfo(name, f"{name}:0", DATA_TYPES[kind], (-1,)) for name, kind in kinds.items()}
    return RowReader(Signature("serving_default", "tensorflow/serving/predict", inputs, {}))


def columns(number=0, text="a"):
    return {
        "b": np.array([number % 2 == 0]),
        "n": np.array([-number]),
        "s": np.array([text], dtype=object),
        "t": np.array([""], dtype=object),
        "x": np.array([number / 2], dtype=np.float32),
        "y": np.array([np.nan], dtype=np.float32),
    }


def request(given):
    made = PredictRequest(model_spec={"name": "m"}, output_filter=["p"])
    for name, column in given.items():
        made.inputs[name].CopyFrom(to_proto(column))
    return made


def test_rows_are_what_was_sent():
    sent = [columns(number, "x" * 40 * number) for number in range(4)]
    found = reader(KINDS).read([request(each).SerializeToString() for each in sent])
    assert found.keys() == KINDS.keys()
    for name, values in found.items():
        expected = np.concatenate([each[name] for each in sent])
        if expected.dtype == object:
            expected = np.array([text.encode() for text in expected], dtype=object)
        assert values.dtype == expected.dtype
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"],
)
def test_a_number_of_each_type_is_read_as_from_its_tensor(dtype):
    value = np.ones(1, dtype) if dtype == "bool" else np.array([-1.5 if "float" in dtype else 100], dtype)
    content = request({"x": value, "s": np.array(["ü"], dtype=object)}).SerializeToString()
    found = values_of(tensors_of(content))
    assert found == {"x": value.tolist()[0], "s": "ü".encode()}
    assert type(found["x"]) is type(value.tolist()[0])


def test_no_values_are_no_row():
    assert values_of(tensors_of(PredictRequest().SerializeToString())) is None


def changed(name, column):
    return request(columns() | {name: np.asarray(column)})


def typed():
    """As TensorFlow writes a single number: in the field of its type."""
    made = request(columns())
    made.inputs["x"].Clear()
    to_field_proto(np.array([1.0], dtype=np.float32), made.inputs["x"])
    return made


def altered(name, **fields):
    made = request(columns())
    for field, value in fields.items():
        setattr(made.inputs[name], field, value)
    return made


def two_texts():
    made = request(columns())
    made.inputs["s"].string_val.append(b"b")
    return made


def without(name, instead=None):
    made = request(columns())
    if instead:
        made.inputs[instead].CopyFrom(made.inputs[name])
    del made.inputs[name]
    return made


@pytest.mark.parametrize(
    "odd",
    [
        changed("x", np.float32(1)),
        changed("x", np.zeros(2, np.float32)),
        changed("x", np.zeros((1, 1), np.float32)),
        changed("x", np.zeros(0, np.float32)),
        changed("x", np.zeros(1, np.int32)),
        changed("s", np.array(["a", "b"], dtype=object)),
        changed("s", np.array([], dtype=object)),
        changed("s", np.array(["a" * 128], dtype=object)),
        changed("s", np.array(["a" * 144], dtype=object)),
        changed("s", np.zeros(1, np.float32)),
        typed(),
        altered("x", version_number=1),
        altered("x", tensor_content=b"123"),
        altered("x", tensor_content=b"12345"),
        altered("x", tensor_content=b""),
        altered("s", tensor_content=b"a"),
        two_texts(),
        without("x"),
        without("s"),
        without("x", instead="z"),
        without("s", instead="z"),
        PredictRequest(),
    ],
)
def test_what_is_not_one_row_in_the_usual_form_is_left_alone(odd):
    read = reader(KINDS).read
    contents = [request(columns()).SerializeToString(), odd.SerializeToString()]
    assert read(contents) is None
    assert read(contents[::-1]) is None
    assert read(contents[1:]) is None


@pytest.mark.parametrize(
    "odd",
    [
        changed("x", np.float32(1)),
        changed("x", np.zeros(2, np.float32)),
        changed("s", np.array(["a" * 144], dtype=object)),
        typed(),
        altered("x", version_number=1),
        altered("x", tensor_content=b"123"),
        altered("x", tensor_content=b"12345"),
        two_texts(),
    ],
)
def test_values_are_read_of_one_value_each_only(odd):
    assert values_of(tensors_of(odd.SerializeToString())) is None


def test_too_much_in_one_is_not_taken_for_what_another_lacks():
    contents = [altered("x", tensor_content=text).SerializeToString() for text in (b"123", b"12345")]
    assert reader(KINDS).read(contents) is None


@pytest.mark.parametrize("kinds", [{}, {"x": "DT_FLOAT", "c": "DT_COMPLEX64"}])
def test_a_signature_without_inputs_or_with_other_types_is_not_read(kinds):
    assert reader(kinds).read([request({}).SerializeToString()]) is None
