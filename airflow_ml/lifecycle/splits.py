"""Splitting a training window by time: the model is judged on days that came after all it has seen."""

from datetime import timedelta
from typing import Literal

from airflow_ml.lifecycle.errors import BadTrainingSet
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Split

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
"""In the order of time."""


def split_window(window: Window, split: Split) -> dict[SplitName, Window]:
    """Cut a window into train, validation and test: adjacent, in this order, test the newest.

    Args:
        window: All days of the training set.
        split: Days of validation and test; train gets the rest.

    Raises:
        BadTrainingSet: Nothing would be left to train on.
    """
    train = len(window) - split.validation - split.test
    if train < 1:
        raise BadTrainingSet(
            f"{len(window)} days leave none to train on: validation takes {split.validation}, test {split.test}",
            where=f"window {window}",
            remedy="choose a longer window, or shorten training.split",
        )
    lengths: dict[SplitName, int] = {"train": train, "validation": split.validation, "test": split.test}
    parts: dict[SplitName, Window] = {}
    start = window.start
    for name in SPLITS:
        parts[name] = Window.of(start, start + timedelta(days=lengths[name] - 1))
        start += timedelta(days=lengths[name])
    return parts
