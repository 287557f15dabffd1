"""Element-wise operators: functions of one number, arithmetic, bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from airflow_ml.serving.engines import tensorflow
from airflow_ml.serving.export.dtypes import cast
from airflow_ml.serving.export.registry import Call, op, simple

tf = tensorflow()


def _unary(function: Callable[[Any], Any], *names: str) -> None:
    """A function of one tensor; whole numbers are computed in the type that torch gives the result."""

    @op(*names)
    def lowering(call: Call, self: Any) -> Any:
        return function(cast(self, call.out.dtype))


for _function, _name in (
    (tf.exp, "exp"),
    (tf.math.expm1, "expm1"),
    (tf.math.log, "log"),
    (tf.math.log1p, "log1p"),
    (tf.sqrt, "sqrt"),
    (tf.math.rsqrt, "rsqrt"),
    (tf.math.reciprocal, "reciprocal"),
    (tf.square, "square"),
    (tf.abs, "abs"),
    (tf.negative, "neg"),
    (tf.sin, "sin"),
    (tf.cos, "cos"),
    (tf.tan, "tan"),
    (tf.asin, "asin"),
    (tf.acos, "acos"),
    (tf.atan, "atan"),
    (tf.sinh, "sinh"),
    (tf.cosh, "cosh"),
    (tf.tanh, "tanh"),
    (tf.math.erf, "erf"),
    (tf.math.erfc, "erfc"),
    (tf.sigmoid, "sigmoid"),
    (tf.sign, "sign"),
    (lambda x: tf.math.log(x) / tf.constant(math.log(2.0), x.dtype), "log2"),
    (lambda x: tf.math.log(x) / tf.constant(math.log(10.0), x.dtype), "log10"),
    (lambda x: tf.pow(tf.constant(2.0, x.dtype), x), "exp2"),
):
    _unary(_function, f"{_name}.default")


def _keep_integers(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: function(x) if x.dtype.is_floating else x


for _function, _name in ((tf.floor, "floor"), (tf.math.ceil, "ceil"), (tf.round, "round")):
    simple(_keep_integers(_function), f"{_name}.default")
simple(_keep_integers(lambda x: tf.where(x < 0, tf.math.ceil(x), tf.floor(x))), "trunc.default")

for _function, _name, _of_integers in (
    (tf.math.is_nan, "isnan", tf.zeros_like),
    (tf.math.is_inf, "isinf", tf.zeros_like),
    (tf.math.is_finite, "isfinite", tf.ones_like),
):
    simple(
        lambda x, f=_function, of_integers=_of_integers: f(x) if x.dtype.is_floating else of_integers(x, dtype=tf.bool),
        f"{_name}.default",
    )


@op("add.Tensor", "add.Scalar")
def _add(call: Call, self: Any, other: Any, alpha: Any = 1) -> Any:
    dtype = call.out.dtype
    scaled = cast(other, dtype) if alpha == 1 else cast(other, dtype) * cast(alpha, dtype)
    left = cast(self, dtype)
    return tf.logical_or(left, scaled) if dtype == torch.bool else left + scaled


@op("sub.Tensor", "sub.Scalar")
def _sub(call: Call, self: Any, other: Any, alpha: Any = 1) -> Any:
    dtype = call.out.dtype
    return cast(self, dtype) - cast(other, dtype) * cast(alpha, dtype)


@op("rsub.Scalar", "rsub.Tensor")
def _rsub(call: Call, self: Any, other: Any, alpha: Any = 1) -> Any:
    dtype = call.out.dtype
    return cast(other, dtype) - cast(self, dtype) * cast(alpha, dtype)


@op("mul.Tensor", "mul.Scalar")
def _mul(call: Call, self: Any, other: Any) -> Any:
    left, right = cast(self, call.out.dtype), cast(other, call.out.dtype)
    return tf.logical_and(left, right) if call.out.dtype == torch.bool else left * right


@op("div.Tensor", "div.Scalar", "div.Tensor_mode", "div.Scalar_mode", "true_divide.Tensor")
def _div(call: Call, self: Any, other: Any, rounding_mode: str | None = None) -> Any:
    dtype = call.out.dtype
    left, right = cast(self, dtype), cast(other, dtype)
    if rounding_mode is None:
        return left / right
    if rounding_mode == "floor":
        return tf.math.floordiv(left, right)
    if not dtype.is_floating_point:
        return tf.truncatediv(left, right)
    quotient = left / right
    return tf.where(quotient < 0, tf.math.ceil(quotient), tf.floor(quotient))


@op("floor_divide.default", "floor_divide.Scalar")
def _floor_divide(call: Call, self: Any, other: Any) -> Any:
    return tf.math.floordiv(cast(self, call.out.dtype), cast(other, call.out.dtype))


@op("remainder.Tensor", "remainder.Scalar")
def _remainder(call: Call, self: Any, other: Any) -> Any:
    return tf.math.floormod(cast(self, call.out.dtype), cast(other, call.out.dtype))


@op("fmod.Tensor", "fmod.Scalar")
def _fmod(call: Call, self: Any, other: Any) -> Any:
    return tf.truncatemod(cast(self, call.out.dtype), cast(other, call.out.dtype))


@op("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")
def _pow(call: Call, self: Any, exponent: Any) -> Any:
    return tf.pow(cast(self, call.out.dtype), cast(exponent, call.out.dtype))


@op("maximum.default", "max.other")
def _maximum(call: Call, self: Any, other: Any) -> Any:
    return tf.maximum(cast(self, call.out.dtype), cast(other, call.out.dtype))


@op("minimum.default", "min.other")
def _minimum(call: Call, self: Any, other: Any) -> Any:
    return tf.minimum(cast(self, call.out.dtype), cast(other, call.out.dtype))


@op("atan2.default")
def _atan2(call: Call, self: Any, other: Any) -> Any:
    return tf.atan2(cast(self, call.out.dtype), cast(other, call.out.dtype))


@op("clamp.default", "clamp.Tensor", "clip.default", "clip.Tensor", "hardtanh.default")
def _clamp(call: Call, self: Any, min: Any = None, max: Any = None, **bounds: Any) -> Any:
    if call.name == "aten.hardtanh.default":
        min = bounds.get("min_val", -1.0 if min is None else min)
        max = bounds.get("max_val", 1.0 if max is None else max)
    value = cast(self, call.out.dtype)
    if min is not None:
        value = tf.maximum(value, cast(min, call.out.dtype))
    return value if max is None else tf.minimum(value, cast(max, call.out.dtype))


@op("clamp_min.default", "clamp_min.Tensor")
def _clamp_min(call: Call, self: Any, min: Any) -> Any:
    return tf.maximum(cast(self, call.out.dtype), cast(min, call.out.dtype))


@op("clamp_max.default", "clamp_max.Tensor")
def _clamp_max(call: Call, self: Any, max: Any) -> Any:
    return tf.minimum(cast(self, call.out.dtype), cast(max, call.out.dtype))


@op("logit.default")
def _logit(call: Call, self: Any, eps: float | None = None) -> Any:
    value = cast(self, call.out.dtype)
    if eps is not None:
        value = tf.clip_by_value(value, cast(eps, call.out.dtype), cast(1.0 - eps, call.out.dtype))
    return tf.math.log(value / (1.0 - value))


@op("nan_to_num.default")
def _nan_to_num(
    call: Call, self: Any, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Any:
    if not self.dtype.is_floating:
        return self
    value = tf.where(tf.math.is_nan(self), tf.constant(nan or 0.0, self.dtype), self)
    high = tf.constant(self.dtype.max if posinf is None else posinf, self.dtype)
    low = tf.constant(self.dtype.min if neginf is None else neginf, self.dtype)
    value = tf.where(tf.logical_and(tf.math.is_inf(self), self > 0), high, value)
    return tf.where(tf.logical_and(tf.math.is_inf(self), self < 0), low, value)


@op("addcmul.default")
def _addcmul(call: Call, self: Any, tensor1: Any, tensor2: Any, value: Any = 1) -> Any:
    dtype = call.out.dtype
    return cast(self, dtype) + cast(value, dtype) * cast(tensor1, dtype) * cast(tensor2, dtype)


@op("addcdiv.default")
def _addcdiv(call: Call, self: Any, tensor1: Any, tensor2: Any, value: Any = 1) -> Any:
    dtype = call.out.dtype
    return cast(self, dtype) + cast(value, dtype) * cast(tensor1, dtype) / cast(tensor2, dtype)


@op("lerp.Scalar", "lerp.Tensor")
def _lerp(call: Call, self: Any, end: Any, weight: Any) -> Any:
    return self + cast(weight, call.out.dtype) * (end - self)
