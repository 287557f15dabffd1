"""Operators that arrange values as they are: shapes, joins, splits, orders, and what torch asks of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_ml.serving.engines import tensorflow
from airflow_ml.serving.export.dtypes import cast
from airflow_ml.serving.export.registry import Call, op, simple
from airflow_ml.serving.export.shapes import axis_of, exact, shape_of, size_of, sizes

tf = tensorflow()

simple(
    lambda x, *_: x,
    *("clone.default", "detach.default", "detach_.default", "alias.default", "contiguous.default"),
    *("lift_fresh_copy.default", "lift_fresh.default", "lift.default"),
)


@op("view.default", "reshape.default", "_unsafe_view.default")
def _reshape(call: Call, self: Any, size: Sequence[Any]) -> Any:
    return tf.reshape(self, sizes(size))


@op("view_as.default", "reshape_as.default")
def _view_as(call: Call, self: Any, other: Any) -> Any:
    return tf.reshape(self, sizes(shape_of(other)))


@op("flatten.using_ints")
def _flatten(call: Call, self: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    if self.shape.rank == 0:
        return tf.reshape(self, [1])
    shape, start, end = shape_of(self), axis_of(self, start_dim), axis_of(self, end_dim)
    product: Any = 1
    for size in shape[start : end + 1]:
        product = product * size
    return tf.reshape(self, sizes([*shape[:start], product, *shape[end + 1 :]]))


@op("unflatten.int")
def _unflatten(call: Call, self: Any, dim: int, sizes_: Sequence[Any]) -> Any:
    shape, axis = shape_of(self), axis_of(self, dim)
    return tf.reshape(self, sizes([*shape[:axis], *sizes_, *shape[axis + 1 :]]))


@op("unsqueeze.default")
def _unsqueeze(call: Call, self: Any, dim: int) -> Any:
    return tf.expand_dims(self, axis_of(self, dim, extra=1))


@op("squeeze.default", "squeeze.dim", "squeeze.dims")
def _squeeze(call: Call, self: Any, dim: int | Sequence[int] | None = None) -> Any:
    # torch has decided which axes go: an axis of unknown size stays
    dims = range(self.shape.rank) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = [axis_of(self, d) for d in dims if self.shape.rank and self.shape[axis_of(self, d)] == 1]
    return tf.squeeze(self, axis=gone) if gone else self


@op("t.default", "numpy_T.default")
def _t(call: Call, self: Any) -> Any:
    return tf.transpose(self) if self.shape.rank > 1 else self


@op("transpose.int", "swapaxes.default", "swapdims.default")
def _transpose(call: Call, self: Any, dim0: int, dim1: int) -> Any:
    order = list(range(self.shape.rank))
    first, second = axis_of(self, dim0), axis_of(self, dim1)
    order[first], order[second] = order[second], order[first]
    return tf.transpose(self, order)


@op("permute.default")
def _permute(call: Call, self: Any, dims: Sequence[int]) -> Any:
    return tf.transpose(self, [axis_of(self, dim) for dim in dims])


@op("expand.default")
def _expand(call: Call, self: Any, size: Sequence[Any], *, implicit: bool = False) -> Any:
    own = shape_of(self)
    lead = len(size) - len(own)
    target = [own[i - lead] if isinstance(s, int) and s == -1 else s for i, s in enumerate(size)]
    return tf.broadcast_to(self, exact(target))


@op("expand_as.default")
def _expand_as(call: Call, self: Any, other: Any) -> Any:
    return tf.broadcast_to(self, exact(shape_of(other)))


@op("repeat.default", "tile.default")
def _repeat(call: Call, self: Any, repeats: Sequence[Any]) -> Any:
    repeats = [*[1] * (self.shape.rank - len(repeats)), *repeats]
    shape = [*[1] * (len(repeats) - self.shape.rank), *shape_of(self)]
    return tf.tile(tf.reshape(self, sizes(shape)), exact(repeats))


@op("repeat_interleave.self_int")
def _repeat_interleave(call: Call, self: Any, repeats: Any, dim: int | None = None, **_: Any) -> Any:
    if dim is None:
        self, dim = tf.reshape(self, [-1]), 0
    return tf.repeat(self, repeats, axis=dim)


@op("cat.default", "concat.default")
def _cat(call: Call, tensors: Sequence[Any], dim: int = 0) -> Any:
    return tf.concat([cast(tensor, call.out.dtype) for tensor in tensors], axis=dim)


@op("stack.default")
def _stack(call: Call, tensors: Sequence[Any], dim: int = 0) -> Any:
    return tf.stack([cast(tensor, call.out.dtype) for tensor in tensors], axis=dim)


@op("split.Tensor")
def _split(call: Call, self: Any, split_size: int, dim: int = 0) -> Any:
    total = self.shape[dim]
    if total is None:
        raise call.unsupported("along the batch")
    parts = [min(split_size, total - start) for start in range(0, total, split_size)]
    return tf.split(self, parts, axis=dim)


@op("split_with_sizes.default", "split.sizes")
def _split_with_sizes(call: Call, self: Any, split_sizes: Sequence[int], dim: int = 0) -> Any:
    return tf.split(self, exact(split_sizes), axis=dim, num=len(split_sizes))


@op("chunk.default")
def _chunk(call: Call, self: Any, chunks: int, dim: int = 0) -> Any:
    if self.shape[dim] is None:
        raise call.unsupported("along the batch")
    return _split(call, self, -(-self.shape[dim] // chunks), dim)


@op("unbind.int")
def _unbind(call: Call, self: Any, dim: int = 0) -> Any:
    if self.shape[dim] is None:
        raise call.unsupported("along the batch")
    return tf.unstack(self, axis=dim)


@op("flip.default")
def _flip(call: Call, self: Any, dims: Sequence[int]) -> Any:
    return tf.reverse(self, [axis_of(self, dim) for dim in dims])


@op("roll.default")
def _roll(call: Call, self: Any, shifts: Sequence[int], dims: Sequence[int] = ()) -> Any:
    if not dims:
        return tf.reshape(tf.roll(tf.reshape(self, [-1]), list(shifts), [0]), sizes(shape_of(self)))
    return tf.roll(self, list(shifts), list(dims))


@op("sym_size.int")
def _sym_size(call: Call, self: Any, dim: int) -> Any:
    return size_of(self, dim)


@op("sym_numel.default")
def _sym_numel(call: Call, self: Any) -> Any:
    return tf.size(self, out_type=tf.int64)


#: Checks that torch records beside the computation; the shapes that they check hold in TensorFlow by construction.
ASSERTIONS = frozenset(
    f"aten.{name}"
    for name in (
        "_assert_scalar.default",
        "_assert_async.msg",
        "_assert_tensor_metadata.default",
        "sym_constrain_range_for_size.default",
        "sym_constrain_range.default",
    )
)
