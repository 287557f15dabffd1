"""Comparisons, boolean and bitwise operators, and choices by a condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from airflow_ml.serving.engines import tensorflow
from airflow_ml.serving.export.dtypes import cast, promoted
from airflow_ml.serving.export.registry import Call, op

tf = tensorflow()


def _comparison(function: Callable[[Any, Any], Any], name: str) -> None:
    @op(f"{name}.Tensor", f"{name}.Scalar")
    def lowering(call: Call, self: Any, other: Any) -> Any:
        dtype = promoted(call.fakes[0], call.fakes[1])
        return function(cast(self, dtype), cast(other, dtype))


for _function, _name in (
    (tf.equal, "eq"),
    (tf.not_equal, "ne"),
    (tf.less, "lt"),
    (tf.less_equal, "le"),
    (tf.greater, "gt"),
    (tf.greater_equal, "ge"),
):
    _comparison(_function, _name)


def _boolean(logical: Callable[..., Any], bitwise: Callable[..., Any], name: str) -> None:
    @op(f"logical_{name}.default")
    def logical_lowering(call: Call, *operands: Any) -> Any:
        return logical(*(cast(operand, torch.bool) for operand in operands))

    @op(f"bitwise_{name}.Tensor", f"bitwise_{name}.Scalar", f"bitwise_{name}.default", f"__{name}__.Tensor")
    def bitwise_lowering(call: Call, *operands: Any) -> Any:
        function = logical if call.out.dtype == torch.bool else bitwise
        return function(*(cast(operand, call.out.dtype) for operand in operands))


_boolean(tf.logical_and, tf.bitwise.bitwise_and, "and")
_boolean(tf.logical_or, tf.bitwise.bitwise_or, "or")
_boolean(tf.math.logical_xor, tf.bitwise.bitwise_xor, "xor")
_boolean(tf.logical_not, tf.bitwise.invert, "not")


@op("where.self", "where.ScalarSelf", "where.ScalarOther", "where.Scalar")
def _where(call: Call, condition: Any, self: Any, other: Any) -> Any:
    return tf.where(cast(condition, torch.bool), cast(self, call.out.dtype), cast(other, call.out.dtype))


@op("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(call: Call, self: Any, mask: Any, value: Any) -> Any:
    return tf.where(mask, cast(value, call.out.dtype), self)
