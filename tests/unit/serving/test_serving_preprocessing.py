"""Vocabularies and scaling: exact rules, learnt from one split, equal after a round trip."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ml.lifecycle.preprocessing import Preprocessing, Scaling, Vocabulary, as_text, fit


def test_unknown_missing_and_empty_are_index_zero():
    vocabulary = Vocabulary(name="c", tokens=("a", "b"))
    column = np.array(["b", "a", "z", "", None, float("nan")], dtype=object)
    assert vocabulary.apply(column).tolist() == [2, 1, 0, 0, 0, 0]


def test_whole_numbers_may_be_categories_and_may_be_missing():
    vocabulary = Vocabulary(name="h", tokens=("3", "5"), dtype="int64")
    assert vocabulary.apply(np.array([5, 3, 4], dtype=np.int32)).tolist() == [2, 1, 0]
    assert vocabulary.apply(np.array([5.0, np.nan])).tolist() == [2, 0]
    assert vocabulary.apply(np.array([5, None], dtype=object)).tolist() == [2, 0]


def test_what_is_not_finite_is_filled():
    scaling = Scaling(name="x", fill=7.0, mean=5.0, scale=2.0)
    assert scaling.apply(np.array([np.nan, np.inf, 9.0])).tolist() == [1.0, 1.0, 2.0]
    assert scaling.apply(np.array([None, 9], dtype=object)).tolist() == [1.0, 2.0]


def test_fit_orders_by_frequency_then_name_whatever_the_order_of_rows():
    column = np.array(["b", "a", "c", "c", "x"], dtype=object)
    first = fit({"c": column}, ["c"], [], min_count=1)
    again = fit({"c": column[::-1]}, ["c"], [], min_count=1)
    assert first == again
    assert first.categorical[0].tokens == ("c", "a", "b", "x")
    assert fit({"c": column}, ["c"], [], min_count=2).categorical[0].tokens == ("c",)


@pytest.mark.parametrize("column", [np.full(4, 3.0), np.full(4, np.nan), np.array([1e9, 1e9 + 1e-3])])
def test_a_column_without_spread_stays_finite(column):
    applied = fit({"x": column}, [], ["x"]).apply({"x": column})[1]
    assert np.isfinite(applied).all()
    assert np.abs(applied).max() < 1e3


def test_numbers_and_bools_read_as_text_the_same_everywhere():
    assert as_text(np.array([True, False])).tolist() == ["True", "False"]
    assert as_text(np.array([1.5, np.nan])).tolist() == ["1.5", ""]
    assert as_text(np.array([3.0, np.nan])).tolist() == [*as_text(np.array([3])).tolist(), ""] == ["3", ""]
    assert as_text(np.array(["a", None, 3, b"x"], dtype=object)).tolist() == ["a", "", "3", "x"]


@given(
    st.lists(st.one_of(st.none(), st.text(max_size=3)), min_size=1, max_size=30),
    st.lists(st.floats(width=32), min_size=1, max_size=30),
)
def test_json_round_trip_applies_equally(texts, numbers):
    size = min(len(texts), len(numbers))
    columns = {"c": np.array(texts[:size], dtype=object), "x": np.array(numbers[:size], dtype=np.float32)}
    learnt = fit(columns, ["c"], ["x"])
    read = Preprocessing.from_json(learnt.to_json())
    assert read == learnt
    for ours, theirs in zip(learnt.apply(columns), read.apply(columns), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_column_that_is_missing_or_of_another_length_is_named():
    learnt = Preprocessing(
        numeric=(Scaling(name="x", fill=0, mean=0, scale=1), Scaling(name="y", fill=0, mean=0, scale=1))
    )
    with pytest.raises(KeyError, match="y"):
        learnt.apply({"x": np.zeros(2)})
    with pytest.raises(ValueError, match="different lengths"):
        learnt.apply({"x": np.zeros(2), "y": np.zeros(3)})


@pytest.mark.parametrize(
    "wrong",
    [
        {"categorical": [{"name": "c", "tokens": ["a", "a"]}]},
        {"categorical": [{"name": "c", "tokens": [""]}]},
        {"categorical": [{"name": "c", "tokens": ["07"], "dtype": "int64"}]},
        {"numeric": [{"name": "x", "fill": 0, "mean": 0, "scale": 0}]},
        {"numeric": [{"name": "x", "fill": 0, "mean": 0, "scale": 1}] * 2},
        {},
    ],
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=r"."):
        Preprocessing.model_validate(wrong)
