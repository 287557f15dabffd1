"""The split of a training window by time."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ml.lifecycle.errors import BadTrainingSet
from airflow_ml.lifecycle.splits import SPLITS, split_window
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Split

days = st.dates(date(2000, 1, 1), date(2100, 1, 1))


@given(days, st.integers(1, 400), st.integers(1, 60), st.integers(1, 60))
def test_the_parts_are_adjacent_in_order_of_time_and_cover_the_window(start, train, validation, test):
    window = Window.of(start, start + timedelta(days=train + validation + test - 1))
    parts = split_window(window, Split(validation=validation, test=test))
    assert tuple(parts) == SPLITS
    assert [day for name in SPLITS for day in parts[name]] == list(window)
    assert [len(parts[name]) for name in SPLITS] == [train, validation, test]


@given(days, st.integers(1, 60), st.integers(1, 60), st.data())
def test_a_window_that_leaves_nothing_to_train_on_is_refused(start, validation, test, data):
    length = data.draw(st.integers(1, validation + test))
    with pytest.raises(BadTrainingSet, match="none to train on"):
        split_window(Window.of(start, start + timedelta(days=length - 1)), Split(validation=validation, test=test))
