"""Reductions along axes: sums, extremes and their places, norms, variances."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from airflow_ml.serving.engines import tensorflow
from airflow_ml.serving.export.dtypes import cast
from airflow_ml.serving.export.registry import Call, op

tf = tensorflow()


def _axes(dim: Any) -> Any:
    """Torch's ``dim``, where ``[]`` and ``None`` mean all."""
    return dim if isinstance(dim, int) else (list(dim) if dim else None)


@op("sum.default", "sum.dim_IntList")
def _sum(call: Call, self: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return tf.reduce_sum(cast(self, call.out.dtype), axis=_axes(dim), keepdims=keepdim)


@op("mean.default", "mean.dim")
def _mean(call: Call, self: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return tf.reduce_mean(cast(self, call.out.dtype), axis=_axes(dim), keepdims=keepdim)


@op("amax.default")
def _amax(call: Call, self: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return tf.reduce_max(self, axis=_axes(dim), keepdims=keepdim)


@op("amin.default")
def _amin(call: Call, self: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return tf.reduce_min(self, axis=_axes(dim), keepdims=keepdim)


@op("max.default")
def _max(call: Call, self: Any) -> Any:
    return tf.reduce_max(self)


@op("min.default")
def _min(call: Call, self: Any) -> Any:
    return tf.reduce_min(self)


@op("max.dim")
def _max_dim(call: Call, self: Any, dim: int, keepdim: bool = False) -> Any:
    return tf.reduce_max(self, axis=dim, keepdims=keepdim), _argmax(call, self, dim, keepdim)


@op("min.dim")
def _min_dim(call: Call, self: Any, dim: int, keepdim: bool = False) -> Any:
    return tf.reduce_min(self, axis=dim, keepdims=keepdim), _argmin(call, self, dim, keepdim)


@op("argmax.default")
def _argmax(call: Call, self: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    return _place(tf.argmax, call, self, dim, keepdim)


@op("argmin.default")
def _argmin(call: Call, self: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    return _place(tf.argmin, call, self, dim, keepdim)


def _place(function: Callable[..., Any], call: Call, self: Any, dim: int | None, keepdim: bool) -> Any:
    if dim is None:
        if keepdim:
            raise call.unsupported("keepdim without dim")
        return function(tf.reshape(self, [-1]), axis=0)
    found = function(self, axis=dim)
    return tf.expand_dims(found, dim) if keepdim else found


@op("any.default", "any.dim", "any.dims")
def _any(call: Call, self: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return tf.reduce_any(cast(self, torch.bool), axis=_axes(dim), keepdims=keepdim)


@op("all.default", "all.dim", "all.dims")
def _all(call: Call, self: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return tf.reduce_all(cast(self, torch.bool), axis=_axes(dim), keepdims=keepdim)


@op("prod.default", "prod.dim_int")
def _prod(call: Call, self: Any, dim: int | None = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return tf.reduce_prod(cast(self, call.out.dtype), axis=dim, keepdims=keepdim)


@op("logsumexp.default")
def _logsumexp(call: Call, self: Any, dim: Any, keepdim: bool = False) -> Any:
    return tf.reduce_logsumexp(cast(self, call.out.dtype), axis=_axes(dim), keepdims=keepdim)


@op("cumsum.default")
def _cumsum(call: Call, self: Any, dim: int, dtype: Any = None) -> Any:
    return tf.cumsum(cast(self, call.out.dtype), axis=dim)


@op("linalg_vector_norm.default")
def _vector_norm(
    call: Call, self: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    value, axes = cast(self, call.out.dtype), _axes(dim)
    if ord == 2:
        return tf.sqrt(tf.reduce_sum(tf.square(value), axis=axes, keepdims=keepdim))
    if ord == 1:
        return tf.reduce_sum(tf.abs(value), axis=axes, keepdims=keepdim)
    if ord == math.inf:
        return tf.reduce_max(tf.abs(value), axis=axes, keepdims=keepdim)
    raise call.unsupported(f"of order {ord}")


def _variance(self: Any, dim: Any, correction: Any, keepdim: bool) -> Any:
    axes = _axes(dim)
    mean = tf.reduce_mean(self, axis=axes, keepdims=True)
    total = tf.reduce_sum(tf.square(self - mean), axis=axes, keepdims=keepdim)
    size = tf.size(self, out_type=tf.int64) // tf.maximum(tf.size(mean, out_type=tf.int64), 1)
    # torch divides by max(0, N - correction), so that too few values give NaN or infinity there and here
    freedom = tf.maximum(tf.cast(size, self.dtype) - tf.cast(correction, self.dtype), 0)
    return total / freedom


@op("var.correction")
def _var(call: Call, self: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Any:
    return _variance(self, dim, 1 if correction is None else correction, keepdim)


@op("var.dim", "var.default")
def _var_dim(call: Call, self: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False) -> Any:
    if isinstance(dim, bool):  # var.default takes `unbiased` in this place
        dim, unbiased = None, dim
    return _variance(self, dim, int(unbiased), keepdim)


@op("std.correction")
def _std(call: Call, self: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Any:
    return tf.sqrt(_variance(self, dim, 1 if correction is None else correction, keepdim))


@op("std.dim", "std.default")
def _std_dim(call: Call, self: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False) -> Any:
    return tf.sqrt(_var_dim(call, self, dim, unbiased, keepdim))
