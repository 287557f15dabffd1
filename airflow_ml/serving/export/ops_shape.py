"""Operators that arrange values: shapes, joins, slices, look-ups, and tensors made from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_ml.serving.engines import tensorflow
from airflow_ml.serving.export.dtypes import cast, tf_dtype
from airflow_ml.serving.export.registry import Call, op, simple

tf = tensorflow()

simple(
    lambda x, *_: x,
    *("clone.default", "detach.default", "detach_.default", "alias.default", "contiguous.default"),
    *("lift_fresh_copy.default", "lift_fresh.default", "lift.default"),
)


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


@op("flip.default")
def _flip(call: Call, self: Any, dims: Sequence[int]) -> Any:
    return tf.reverse(self, [axis_of(self, dim) for dim in dims])


@op("roll.default")
def _roll(call: Call, self: Any, shifts: Sequence[int], dims: Sequence[int] = ()) -> Any:
    if not dims:
        return tf.reshape(tf.roll(tf.reshape(self, [-1]), list(shifts), [0]), sizes(shape_of(self)))
    return tf.roll(self, list(shifts), list(dims))


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


@op("to.dtype", "to.dtype_layout", "to.device", "to.other", "_to_copy.default", "type_as.default")
def _to(call: Call, self: Any, *_: Any, **__: Any) -> Any:
    return cast(self, call.out.dtype)


@op("full.default")
def _full(call: Call, size: Sequence[Any], fill_value: Any, **_: Any) -> Any:
    return tf.fill(exact(size), cast(fill_value, call.out.dtype))


@op("new_full.default")
def _new_full(call: Call, self: Any, size: Sequence[Any], fill_value: Any, **_: Any) -> Any:
    return tf.fill(exact(size), cast(fill_value, call.out.dtype))


@op("full_like.default")
def _full_like(call: Call, self: Any, fill_value: Any, **_: Any) -> Any:
    return tf.fill(exact(shape_of(self)), cast(fill_value, call.out.dtype))


def _constant(value: int, name: str) -> None:
    @op(f"{name}.default")
    def made(call: Call, size: Sequence[Any], **_: Any) -> Any:
        return tf.fill(exact(size), cast(value, call.out.dtype))

    @op(f"new_{name}.default")
    def new(call: Call, self: Any, size: Sequence[Any], **_: Any) -> Any:
        return tf.fill(exact(size), cast(value, call.out.dtype))

    @op(f"{name}_like.default")
    def like(call: Call, self: Any, **_: Any) -> Any:
        return tf.fill(exact(shape_of(self)), cast(value, call.out.dtype))


_constant(0, "zeros")
_constant(1, "ones")


@op("scalar_tensor.default")
def _scalar_tensor(call: Call, s: Any, **_: Any) -> Any:
    return cast(s, call.out.dtype)


@op("arange.default", "arange.start", "arange.start_step")
def _arange(call: Call, *bounds: Any, **_: Any) -> Any:
    dtype = tf_dtype(call.out.dtype)
    counted = dtype if dtype.is_floating else tf.int64  # there are no ranges of small integers
    return tf.cast(tf.range(*(tf.cast(bound, counted) for bound in bounds)), dtype)


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
