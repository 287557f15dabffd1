"""Sizes of tensors, as numbers where TensorFlow knows them and as tensors where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_ml.serving.engines import tensorflow

tf = tensorflow()


def sizes(shape: Sequence[Any]) -> Any:
    """A torch size list as a TensorFlow shape.

    One unknown size among known ones becomes -1, so that TensorFlow goes on knowing the others.
    """
    unknown = [index for index, size in enumerate(shape) if not isinstance(size, int)]
    if not unknown:
        return list(shape)
    if len(unknown) == 1 and not any(isinstance(size, int) and size == -1 for size in shape):
        return [size if isinstance(size, int) else -1 for size in shape]
    return exact(shape)


def exact(shape: Sequence[Any]) -> Any:
    """A size list with every size in its place; int64 [rank]. For operators that do not know -1."""
    if all(isinstance(size, int) for size in shape):
        return list(shape)
    return tf.stack([tf.cast(size, tf.int64) for size in shape])


def size_of(x: Any, axis: int) -> Any:
    """The size of an axis: a number where TensorFlow knows it, else an int64 scalar."""
    known = x.shape[axis]
    return int(known) if known is not None else tf.shape(x, out_type=tf.int64)[axis]


def shape_of(x: Any) -> list[Any]:
    """All sizes of ``x``, known ones as numbers."""
    return [size_of(x, axis) for axis in range(x.shape.rank)]


def axis_of(x: Any, dim: int, extra: int = 0) -> int:
    """``dim`` counted from the front."""
    return dim % (x.shape.rank + extra) if x.shape.rank + extra else 0
