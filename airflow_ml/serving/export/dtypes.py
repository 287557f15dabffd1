"""torch's types as TensorFlow's, and torch's rule for mixing them."""

from __future__ import annotations

from typing import Any

import torch

from airflow_ml.serving.engines import tensorflow

tf = tensorflow()

_TORCH_TO_TF = {
    torch.float32: tf.float32,
    torch.float64: tf.float64,
    torch.float16: tf.float16,
    torch.bfloat16: tf.bfloat16,
    torch.int64: tf.int64,
    torch.int32: tf.int32,
    torch.int16: tf.int16,
    torch.int8: tf.int8,
    torch.uint8: tf.uint8,
    torch.bool: tf.bool,
}


def tf_dtype(dtype: torch.dtype) -> Any:
    """The TensorFlow type of the same width.

    Raises:
        TypeError: there is none (complex and quantised types).
    """
    if dtype not in _TORCH_TO_TF:
        raise TypeError(f"{dtype} has no counterpart in the exporter")
    return _TORCH_TO_TF[dtype]


def cast(value: Any, dtype: torch.dtype) -> Any:
    """``value`` (tensor or Python number) as a TensorFlow tensor of torch's ``dtype``."""
    target = tf_dtype(dtype)
    if not tf.is_tensor(value):
        return tf.constant(value, dtype=target)
    if value.dtype == target:
        return value
    if target == tf.bool:  # a cast to bool asks whether the value differs from zero; NaN does
        return tf.not_equal(value, tf.zeros([], value.dtype))
    return tf.cast(value, target)


def promoted(left: Any, right: Any) -> torch.dtype:
    """The type in which torch would compute with two operands (tensors, fake tensors, Python numbers).

    Source: https://docs.pytorch.org/docs/stable/tensor_attributes.html#type-promotion-doc
    """
    return torch.result_type(_operand(left), _operand(right))


def _operand(fake: Any) -> Any:
    """A real, tiny stand-in: promotion depends on the type and on whether an operand has dimensions."""
    if isinstance(fake, torch.Tensor):
        return torch.empty((1,) * fake.dim(), dtype=fake.dtype)
    if isinstance(fake, torch.SymInt):
        return 1
    return 1.0 if isinstance(fake, torch.SymFloat) else fake
