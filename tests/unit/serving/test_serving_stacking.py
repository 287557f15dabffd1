"""Requests put together and taken apart again: each gets what it would have got alone."""

import numpy as np
import pytest

from airflow_ml.serving.protos.messages import DATA_TYPES, PredictRequest
from airflow_ml.serving.protos.tensors import to_proto
from airflow_ml.serving.saved_model import Signature, TensorInfo
from airflow_ml.serving.server.pace import QUICK, SLOW, Pace
from airflow_ml.serving.server.stacking import MAX_ROWS, split, stacked

SIGNATURE = Signature(
    "serving_default",
    "tensorflow/serving/predict",
    {
        name: TensorInfo(name, f"{name}:0", DATA_TYPES[kind], (-1,))
        for name, kind in (("s", "DT_STRING"), ("x", "DT_FLOAT"))
    },
    {},
)


def request(s, x):
    made = PredictRequest()
    made.inputs["s"].CopyFrom(to_proto(np.array(s, dtype=object)))
    made.inputs["x"].CopyFrom(to_proto(np.asarray(x, dtype=np.float32)))
    return made


def test_rows_of_many_stand_below_each_other():
    inputs, rows = stacked(SIGNATURE, [request(["a"], [1]), request(["b", "c"], [2, 3]), request([], [])])
    assert rows == [1, 2, 0]
    assert inputs["s"].tolist() == [b"a", b"b", b"c"]
    assert inputs["x"].tolist() == [1.0, 2.0, 3.0]
    parts = split({"p": inputs["x"] * 2, "q": np.arange(6).reshape(3, 2)}, rows)
    assert [part["p"].tolist() for part in parts] == [[2.0], [4.0, 6.0], []]
    assert parts[1]["q"].tolist() == [[2, 3], [4, 5]]


def typed(value):
    """As the real server writes numbers: in fields of their type."""
    made = request(["a"], [value])
    made.inputs["x"].tensor_content = b""
    made.inputs["x"].float_val.append(value)
    return made


def without(name, instead=None):
    """An input less, or another one in its place."""
    made = request(["b"], [2.0])
    if instead:
        made.inputs[instead].CopyFrom(made.inputs[name])
    del made.inputs[name]
    return made


@pytest.mark.parametrize(
    "odd",
    [
        request(["b"], [[2.0]]),  # another rank
        request(["b", "c"], [2.0]),  # inputs of different length
        request(["b"], np.float32(2.0)),  # no batch dimension
        typed(2.0),
        without("x"),
        without("x", instead="z"),
        request(["b"] * MAX_ROWS, [2.0] * MAX_ROWS),
    ],
    ids=["rank", "length", "scalar", "typed fields", "missing", "misnamed", "too many"],
)
def test_what_does_not_fit_is_left_to_be_asked_alone(odd):
    before = odd.SerializeToString(deterministic=True)
    assert stacked(SIGNATURE, [request(["a"], [1.0]), odd]) is None
    assert odd.SerializeToString(deterministic=True) == before, "who answers it alone says what is wrong with it"


def test_bytes_that_are_missing_in_one_are_not_taken_from_the_next():
    short, long = request(["a"], [1.0]), request(["b"], [2.0])
    content = short.inputs["x"].tensor_content
    short.inputs["x"].tensor_content = content[:2]
    long.inputs["x"].tensor_content += content[2:]
    assert stacked(SIGNATURE, [short, long]) is None


def test_another_type_is_not_read_as_numbers():
    other = request(["a"], [1.0])
    other.inputs["x"].CopyFrom(to_proto(np.array([1], dtype=np.int32)))
    assert stacked(SIGNATURE, [request(["a"], [1.0]), other]) is None


def test_outputs_that_are_not_row_by_row_are_not_taken_apart():
    assert split({"p": np.zeros(3), "mean": np.array(0.0)}, [1, 2]) is None
    assert split({"p": np.zeros(2)}, [1, 2]) is None


def test_a_model_is_quick_when_it_was_seen_to_be():
    pace = Pace()
    assert not pace.quick, "nobody knows yet"
    for _ in range(2):
        pace.observe(QUICK / 2)
    assert not pace.quick
    pace.observe(QUICK * 5)
    assert pace.quick, "one run on a busy machine does not count"
    pace.observe(SLOW * 2)
    assert not pace.quick, "one that holds up everybody does"
    for _ in range(16):
        pace.observe(QUICK / 2)
    assert pace.quick
    for _ in range(16):
        pace.observe(QUICK * 1.1)
    assert not pace.quick
