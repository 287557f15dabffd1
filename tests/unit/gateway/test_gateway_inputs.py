"""A request's rows become the columns of a signature, or every field that is wrong is named."""

import numpy as np
import pytest

from airflow_ml.gateway.inputs import bad_fields, columns_of, entity_of, problem
from airflow_ml.lifecycle.errors import BadFields
from airflow_ml.lifecycle.preprocessing import MISSING_INT

SIGNATURE = {"carrier": "string", "hour": "int64", "wind": "float32"}
FEATURES = {*SIGNATURE, "new"}
ROW = {"id": "a", "carrier": "AA", "hour": 7, "wind": 1.5}


def columns(rows):
    return columns_of(rows, range(len(rows)), SIGNATURE, FEATURES, "id")


def test_columns_have_the_types_of_the_signature():
    found = columns([ROW, {**ROW, "hour": 8.0, "wind": 3}])
    assert list(found) == list(SIGNATURE)
    assert found["carrier"].tolist() == ["AA", "AA"]
    assert (found["hour"].dtype, found["hour"].tolist()) == (np.int64, [7, 8])
    assert (found["wind"].dtype, found["wind"].tolist()) == (np.float32, [1.5, 3.0])


def test_null_is_a_value_that_is_not_known_as_training_reads_it():
    found = columns([dict.fromkeys(SIGNATURE)])
    assert found["carrier"].tolist() == [""]
    assert found["hour"].tolist() == [MISSING_INT]
    assert np.isnan(found["wind"]).all()


def test_a_feature_of_another_version_is_no_mistake():
    assert "new" not in columns([{**ROW, "new": 1}])


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("carrier", 5, "is text; got int 5"),
        ("carrier", ["AA"], "is text; got list"),
        ("hour", 7.5, "is a whole number of 64 bits; got float 7.5"),
        ("hour", True, "got bool True"),
        ("hour", 2**63, "is a whole number of 64 bits"),
        ("hour", "7", "got str '7'"),
        ("wind", "1.5", "is a number; got str '1.5'"),
        ("wind", False, "is a number; got bool"),
        ("wind", 1e39, "at most 3.4e+38"),
        ("wind", float("nan"), "at most 3.4e+38"),
        ("Wind", 1.5, "is unknown; the model takes carrier, hour, wind"),
    ],
)
def test_a_field_that_does_not_fit_is_named(field, value, says):
    with pytest.raises(BadFields) as refused:
        columns([ROW, {**ROW, field: value}])
    (problem,) = refused.value.fields
    assert (problem["row"], problem["field"]) == (1, field)
    assert says in problem["problem"]
    assert refused.value.what.startswith(f"row 1: {field!r}")


def test_all_that_is_wrong_is_told_at_once_and_the_first_twenty_of_much():
    with pytest.raises(BadFields, match="and 3 more") as refused:
        columns([{"carrier": 1, "wind": "x", "wnid": 1}])
    assert [each["field"] for each in refused.value.fields] == ["carrier", "hour", "wind", "wnid"]


def test_problems_are_told_by_their_place_in_the_request():
    with pytest.raises(BadFields, match="row 7: 'hour'") as refused:
        columns_of([{**ROW, "hour": "x"}, {**ROW, "wind": "x"}], [7, 9], SIGNATURE, FEATURES, "id")
    assert [each["row"] for each in refused.value.fields] == [7, 9]
    both = bad_fields([problem(3, "a", "is wrong"), *refused.value.fields, problem(1, "b", "is wrong")])
    assert both.what == "row 1: 'b' is wrong, and 3 more"


@pytest.mark.parametrize("value", [None, "", 1.5, True, ["a"]])
def test_an_entity_is_text_or_a_whole_number(value):
    with pytest.raises(ValueError, match="what the prediction is about"):
        entity_of({"id": value}, "id")
    assert entity_of({"id": 17}, "id") == entity_of({"id": "17"}, "id") == "17"
