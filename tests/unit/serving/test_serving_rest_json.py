"""TF Serving's two JSON formats: what fits becomes tensors, what does not is refused by name."""

import base64
import json

import numpy as np
import pytest

from airflow_ml.serving.protos.messages import DATA_TYPES
from airflow_ml.serving.saved_model import TensorInfo
from airflow_ml.serving.server.json_answers import to_json
from airflow_ml.serving.server.json_examples import examples_of
from airflow_ml.serving.server.rest_json import parse, to_arrays
from airflow_ml.serving.server.status import Code, StatusError


def info(name: str, kind: str) -> TensorInfo:
    return TensorInfo(name, f"{name}:0", DATA_TYPES[kind], (-1,))


TWO = {"s": info("s", "DT_STRING"), "x": info("x", "DT_FLOAT")}
ONE = {"n": info("n", "DT_INT64")}


def test_rows_and_columns_are_the_same_request():
    rows, is_row = to_arrays({"instances": [{"s": "a", "x": 1}, {"s": "b", "x": 2.5}]}, TWO)
    columns, is_row_too = to_arrays({"inputs": {"s": ["a", "b"], "x": [1, 2.5]}}, TWO)
    assert (is_row, is_row_too) == (True, False)
    for name in TWO:
        assert rows[name].tolist() == columns[name].tolist()
    assert rows["x"].dtype == np.float32


def test_a_lone_input_needs_no_name():
    assert to_arrays({"instances": [1, 2]}, ONE)[0]["n"].tolist() == [1, 2]
    assert to_arrays({"inputs": [[1], [2]]}, ONE)[0]["n"].shape == (2, 1)


def test_base64_and_not_a_number():
    value = {"b64": base64.b64encode(b"\xff\x00").decode()}
    assert to_arrays({"inputs": {"s": [value], "x": [1]}}, TWO)[0]["s"].tolist() == [b"\xff\x00"]
    document = parse(b'{"inputs": {"s": ["a"], "x": [NaN]}}')
    assert np.isnan(to_arrays(document, TWO)[0]["x"]).all()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"instances": [1], "signature_name": 3}', b"\xff\xfe"],
)
def test_what_is_not_a_json_object(body):
    with pytest.raises(StatusError) as refused:
        parse(body)
    assert refused.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "Missing a name for object member. at offset: 1"),
        (b'{"a": 1,}', "Missing a name for object member. at offset: 8"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a]": 1 "b": 2}', "Missing a comma or } after an object member. at offset: 9"),
        (b'{"a": [1 2]}', "Missing a comma or ] after an array element. at offset: 9"),
        (b'{"a": [1,]}', "Invalid value. at offset: 9"),
        (b'{"a": 1} trailing', "The document root must not be followed by other values. at offset: 9"),
        (b'{"a": "b', "Missing a closing quotation mark in string. at offset: 6"),
        (b'{"a": "\\x"}', "Invalid escape character in string. at offset: 7"),
        (b'{"a": "\\u12"}', "Incorrect hex digit after \\u escape in string. at offset: 8"),
        (b'{"\xc3\xbc": "\\ud800"}', "The surrogate pair in string is invalid. at offset: 8"),
        (b'{"\\udc00": 1}', "The surrogate pair in string is invalid. at offset: 2"),
        (b'{"a": "\xed\xa0\x80"}', "Invalid encoding in string. at offset: 7"),
        (b'{"a": 1e400}', "Number too big to be stored in double. at offset: 6"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "Number too big to be stored in double. at offset: 6"),
        (b" ", "The document is empty. at offset: 1"),
        (b"", "The document is empty"),
    ],
)
def test_what_is_no_json_is_told_in_rapidjsons_words(body, says):
    with pytest.raises(StatusError) as refused:
        parse(body)
    assert (refused.value.code, refused.value.message) == (Code.INVALID_ARGUMENT, f"JSON Parse error: {says}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r'"\\ud800"', r"\ud800"),
        ("1e50", 1e50),
        ("Infinity", float("inf")),
        ("18446744073709551616", 2**64),
        ("1" + "0" * 305, 1e305),
    ],
)
def test_what_looks_wrong_and_is_not(text, value):
    assert parse(f'{{"a": {text}}}'.encode())["a"] == value


def test_whole_numbers_beyond_64_bits_are_doubles():
    assert to_arrays(parse(b'{"inputs": {"s": ["a"], "x": [100000000000000000000, 1]}}'), TWO)[0]["x"][0] == 1e20
    with pytest.raises(StatusError, match="not of expected type: int64"):
        to_arrays({"inputs": [10**20]}, ONE)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({}, r"(?s)JSON Value: \{\} When method is classify, key 'examples' is expected"),
        ({"examples": 1}, r"(?s)JSON Value: \{.*\} Expecting 'examples' value to be an list/array"),
        ({"examples": []}, r"(?s)JSON Value: \{.*\} 'examples' value is an empty array"),
        ({"examples": [{"x": 1e300}]}, r"Cannot convert JSON value: 1e\+300 to float without loss of precision\."),
        ({"examples": [{"x": 10**60}]}, r"Cannot convert JSON value: 1e\+60 to float without loss of precision\."),
        ({"context": 5, "examples": 1}, "Example must be JSON object but got JSON Number"),
    ],
)
def test_examples_that_do_not_fit(document, says):
    with pytest.raises(StatusError, match=says) as refused:
        examples_of(document)
    assert refused.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("document", "infos", "says"),
    [
        ({}, TWO, "Missing 'inputs' or 'instances' key"),
        ({"inputs": 1, "instances": 1}, TWO, "only one of"),
        ({"instances": []}, TWO, "No values"),
        ({"instances": 3}, TWO, "list/array"),
        ({"instances": [1]}, TWO, "expecting list of objects"),
        ({"inputs": [1]}, TWO, "expecting an object"),
        ({"instances": [{"s": "a"}]}, TWO, "keys must be equal to: s,x"),
        ({"instances": [{"s": "a", "x": 1, "y": 2}]}, TWO, "named input: y"),
        ({"inputs": {"s": ["a"]}}, TWO, "Missing named input: x"),
        ({"inputs": {"s": [1], "x": [1]}}, TWO, "not of expected type: string"),
        ({"inputs": {"s": ["a"], "x": ["1"]}}, TWO, "not of expected type: float"),
        ({"inputs": {"s": ["a"], "x": [None]}}, TWO, "Type: Null"),
        ({"inputs": [1.5]}, ONE, "not of expected type: int64"),
        ({"inputs": [2**63]}, ONE, "not of expected type: int64"),
        ({"inputs": [True]}, ONE, "Type: True"),
        ({"inputs": [[1, 2], [3]]}, ONE, "unexpected size: 1"),
        ({"inputs": [[1], 2]}, ONE, "incorrect level"),
        ({"inputs": [1, [2]]}, ONE, "unexpected level"),
        ({"inputs": {"s": [{"b64": "?"}], "x": [1]}}, TWO, "base64"),
        ({"instances": [{"s": "a", "x": 1}, [1]]}, TWO, "got list at item 1"),
        ({"instances": [1, {"s": "a"}]}, ONE, "got object at item 1"),
        (
            {"instances": [{"s": "a", "x": 1}, {"s": "a", "x": [1]}]},
            TWO,
            r"element: 1 key: x of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape \[\] but got: \[1\]",
        ),
        ({"instances": [[1, 2], [1]]}, ONE, "element: 1 of 'instances' list.*Expecting tensor size: 2 but got: 1"),
        ({"inputs": {"s": ["a"], "x": [2**24]}}, TWO, "Cannot convert JSON value: 16777216 to float without loss"),
        ({"inputs": {"s": ["a"], "x": [1e39]}}, TWO, "without loss of precision"),
    ],
)
def test_what_does_not_fit_is_named(document, infos, says):
    with pytest.raises(StatusError, match=says) as refused:
        to_arrays(document, infos)
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_answers():
    third = np.array([1 / 3, np.nan], dtype=np.float32)
    assert json.loads(to_json({"p": third[:1]}, rows=True)) == {"predictions": [0.33333334]}
    assert b"NaN" in to_json({"p": third}, rows=False)
    two = {"p": np.array([[1.0], [2.0]]), "s": np.array([b"a", b"\xff"], dtype=object)}
    assert json.loads(to_json(two, rows=True))["predictions"][0] == {"p": [1.0], "s": "a"}
    assert json.loads(to_json({"s_bytes": two["s"]}, rows=False))["outputs"][1] == {"b64": "/w=="}
    with pytest.raises(StatusError, match="inconsistent batch size: 1 expecting: 2"):
        to_json({"p": np.zeros(2), "q": np.zeros(1)}, rows=True)
    with pytest.raises(StatusError, match="p has no shape information"):
        to_json({"p": np.array(1.0)}, rows=True)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 2), (2, 0, 3)])
def test_an_empty_output_has_its_shape(shape):
    nothing = np.zeros(shape, dtype=np.float32)
    assert json.loads(to_json({"p": nothing}, rows=True))["predictions"] == nothing.tolist()
    assert json.loads(to_json({"p": nothing, "q": nothing}, rows=False))["outputs"]["q"] == nothing.tolist()


@pytest.mark.parametrize("kind", ["DT_HALF", "DT_BFLOAT16", "DT_COMPLEX64"])
def test_what_json_has_no_form_for(kind):
    with pytest.raises(StatusError, match="Conversion of JSON Value: 1 to type") as refused:
        to_arrays({"inputs": [1]}, {"h": info("h", kind)})
    assert refused.value.code is Code.UNIMPLEMENTED
    with pytest.raises(StatusError, match="p is of a type that has no form in JSON"):
        to_json({"p": np.zeros(1, dtype=np.float16)}, rows=True)
