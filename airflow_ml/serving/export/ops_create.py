"""Operators that make tensors from nothing, or of another type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_ml.serving.engines import tensorflow
from airflow_ml.serving.export.dtypes import cast, tf_dtype
from airflow_ml.serving.export.registry import Call, op
from airflow_ml.serving.export.shapes import exact, shape_of

tf = tensorflow()


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
