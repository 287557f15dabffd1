"""Operators that look values up: slices, gathers, embeddings, buckets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_ml.serving.engines import tensorflow
from airflow_ml.serving.export.registry import Call, op
from airflow_ml.serving.export.shapes import axis_of, shape_of, size_of, sizes

tf = tensorflow()


@op("select.int")
def _select(call: Call, self: Any, dim: int, index: Any) -> Any:
    return self[(*[slice(None)] * axis_of(self, dim), index)]


@op("slice.Tensor")
def _slice(call: Call, self: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    if isinstance(end, int) and end >= 2**62:  # torch's way to say "to the end"
        end = None
    return self[(*[slice(None)] * axis_of(self, dim), slice(start, end, step))]


@op("narrow.default")
def _narrow(call: Call, self: Any, dim: int, start: Any, length: Any) -> Any:
    return _slice(call, self, dim, start, start + length)


@op("index_select.default")
def _index_select(call: Call, self: Any, dim: int, index: Any) -> Any:
    return tf.gather(self, tf.reshape(index, [-1]), axis=dim)


@op("embedding.default")
def _embedding(call: Call, weight: Any, indices: Any, *_: Any, **__: Any) -> Any:
    return tf.gather(weight, indices)


@op("gather.default")
def _gather(call: Call, self: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    places = [tf.range(tf.cast(size, tf.int64)) for size in shape_of(index)]
    grid = tf.meshgrid(*places, indexing="ij")
    grid[dim] = tf.cast(index, tf.int64)
    return tf.gather_nd(self, tf.stack(grid, axis=-1))


@op("index.Tensor")
def _index(call: Call, self: Any, indices: Sequence[Any]) -> Any:
    used = [axis for axis, index in enumerate(indices) if index is not None]
    if any(indices[axis].dtype == tf.bool for axis in used):
        raise call.unsupported("with a mask: the number of rows of the result would depend on the values")
    if len(used) == 1:
        (axis,) = used
        index = tf.cast(indices[axis], tf.int64)
        return tf.gather(self, tf.where(index < 0, index + size_of(self, axis), index), axis=axis)
    if used != list(range(len(used))):
        raise call.unsupported("with several index tensors that do not start at the first axis")
    index = tf.stack(_broadcast([tf.cast(indices[axis], tf.int64) for axis in used]), axis=-1)
    return tf.gather_nd(self, tf.where(index < 0, index + tf.shape(self, out_type=tf.int64)[: len(used)], index))


def _broadcast(tensors: list[Any]) -> list[Any]:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return [tf.broadcast_to(tensor, tf.shape(total)) for tensor in tensors]


@op("one_hot.default")
def _one_hot(call: Call, self: Any, num_classes: int = -1) -> Any:
    if num_classes < 0:
        raise call.unsupported("without num_classes")
    return tf.one_hot(self, num_classes, dtype=tf.int64)


@op("searchsorted.Tensor")
def _searchsorted(
    call: Call, sorted_sequence: Any, self: Any, *, out_int32: bool = False, right: bool = False,
    side: str | None = None, sorter: Any = None,
) -> Any:  # fmt: skip
    if sorter is not None:
        raise call.unsupported("with a sorter")
    if sorted_sequence.shape.rank != 1:
        raise call.unsupported("with more than one sequence")
    side = side or ("right" if right else "left")
    dtype = tf.int32 if out_int32 else tf.int64
    flat = tf.cast(tf.reshape(self, [-1]), sorted_sequence.dtype)
    found = tf.searchsorted(sorted_sequence, flat, side=side, out_type=dtype)
    # torch puts NaN behind everything; here it would land in front, since every comparison with it fails
    if flat.dtype.is_floating:
        behind = tf.cast(tf.size(sorted_sequence), dtype)
        found = tf.where(tf.math.is_nan(flat), behind, found)
    return tf.reshape(found, sizes(shape_of(self)))


@op("bucketize.Tensor")
def _bucketize(call: Call, self: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    return _searchsorted(call, boundaries, self, out_int32=out_int32, right=right)
