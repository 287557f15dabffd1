"""Layers: products, activations, normalisation, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from airflow_ml.serving.engines import tensorflow
from airflow_ml.serving.export.dtypes import cast
from airflow_ml.serving.export.registry import Call, op, simple
from airflow_ml.serving.export.shapes import shape_of, sizes

tf = tensorflow()

simple(tf.nn.relu, "relu.default")
simple(tf.nn.relu6, "relu6.default")
simple(tf.nn.selu, "selu.default")
simple(tf.nn.silu, "silu.default")
simple(tf.nn.softsign, "softsign.default")
simple(lambda x: x * tf.tanh(tf.math.softplus(x)), "mish.default")
simple(tf.math.log_sigmoid, "log_sigmoid.default")
simple(lambda x: tf.nn.relu6(x + 3.0) / 6.0, "hardsigmoid.default")
simple(lambda x: x * tf.nn.relu6(x + 3.0) / 6.0, "hardswish.default")
simple(tf.matmul, "mm.default", "bmm.default")
simple(tf.linalg.matvec, "mv.default")
simple(lambda a, b: tf.tensordot(a, b, 1), "dot.default")


@op("matmul.default")
def _matmul(call: Call, self: Any, other: Any) -> Any:
    if other.shape.rank == 1:
        return tf.tensordot(self, other, 1)
    if self.shape.rank == 1:
        return tf.squeeze(tf.matmul(self[tf.newaxis, :], other), axis=-2)
    return tf.matmul(self, other)


@op("linear.default")
def _linear(call: Call, input: Any, weight: Any, bias: Any = None) -> Any:
    if input.shape.rank <= 2 and weight.shape.rank == 2 and input.shape.rank > 1:
        product = tf.matmul(input, weight, transpose_b=True)
    else:  # over the last axis of any number of axes
        product = tf.tensordot(input, weight, [[-1], [-1]])
    return product if bias is None else product + bias


@op("addmm.default", "baddbmm.default")
def _addmm(call: Call, self: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    product = tf.matmul(mat1, mat2)
    if alpha != 1:
        product = product * cast(alpha, call.out.dtype)
    return product + (self if beta == 1 else self * cast(beta, call.out.dtype))


@op("gelu.default")
def _gelu(call: Call, self: Any, *, approximate: str = "none") -> Any:
    return tf.nn.gelu(self, approximate=approximate == "tanh")


@op("leaky_relu.default")
def _leaky_relu(call: Call, self: Any, negative_slope: float = 0.01) -> Any:
    return tf.nn.leaky_relu(self, alpha=negative_slope)


@op("elu.default")
def _elu(call: Call, self: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    # expm1 of the negative part only: elsewhere it would overflow, and 0 · inf is NaN
    negative = alpha * tf.math.expm1(tf.minimum(self, 0.0) * input_scale)
    return scale * tf.where(self > 0, self, negative)


@op("celu.default")
def _celu(call: Call, self: Any, alpha: float = 1.0) -> Any:
    return tf.maximum(self, 0.0) + tf.minimum(alpha * tf.math.expm1(tf.minimum(self, 0.0) / alpha), 0.0)


@op("prelu.default", "_prelu_kernel.default")
def _prelu(call: Call, self: Any, weight: Any) -> Any:
    if weight.shape.rank == 1 and self.shape.rank > 2:  # one slope a channel, channels in the second axis
        weight = tf.reshape(weight, [-1, *[1] * (self.shape.rank - 2)])
    return tf.where(self > 0, self, weight * self)


@op("softplus.default")
def _softplus(call: Call, self: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    return tf.where(self * beta > threshold, self, tf.math.softplus(self * beta) / beta)


@op("threshold.default")
def _threshold(call: Call, self: Any, threshold: Any, value: Any) -> Any:
    return tf.where(self > threshold, self, cast(value, call.out.dtype))


@op("softmax.int", "_softmax.default")
def _softmax(call: Call, self: Any, dim: int, *_: Any, **__: Any) -> Any:
    return tf.nn.softmax(cast(self, call.out.dtype), axis=dim)


@op("log_softmax.int", "_log_softmax.default")
def _log_softmax(call: Call, self: Any, dim: int, *_: Any, **__: Any) -> Any:
    return tf.nn.log_softmax(cast(self, call.out.dtype), axis=dim)


@op("glu.default")
def _glu(call: Call, self: Any, dim: int = -1) -> Any:
    value, gate = tf.split(self, 2, axis=dim)
    return value * tf.sigmoid(gate)


@op("dropout.default", "alpha_dropout.default", "feature_dropout.default", "native_dropout.default")
def _dropout(call: Call, input: Any, p: float, train: bool | None = False) -> Any:
    if train and p > 0:
        raise call.unsupported("in training mode")
    return (input, tf.ones_like(input, dtype=tf.bool)) if call.name.startswith("aten.native") else input


def _normalise(self: Any, axes: Sequence[int], eps: float) -> tuple[Any, Any, Any]:
    mean = tf.reduce_mean(self, axis=axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(self - mean), axis=axes, keepdims=True)
    rstd = tf.math.rsqrt(variance + eps)
    return (self - mean) * rstd, mean, rstd


def _affine(normal: Any, weight: Any, bias: Any) -> Any:
    scaled = normal if weight is None else normal * weight
    return scaled if bias is None else scaled + bias


@op("layer_norm.default")
def _layer_norm(
    call: Call, input: Any, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None,
    eps: float = 1e-5, cudnn_enable: bool = True,
) -> Any:  # fmt: skip
    normal, _, _ = _normalise(input, range(-len(normalized_shape), 0), eps)
    return _affine(normal, weight, bias)


@op("native_layer_norm.default")
def _native_layer_norm(
    call: Call, input: Any, normalized_shape: Sequence[int], weight: Any, bias: Any, eps: float
) -> Any:
    normal, mean, rstd = _normalise(input, range(-len(normalized_shape), 0), eps)
    return _affine(normal, weight, bias), mean, rstd


@op("rms_norm.default")
def _rms_norm(
    call: Call, input: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None
) -> Any:
    axes = list(range(-len(normalized_shape), 0))
    epsilon = 2.0**-23 if eps is None else eps  # torch's default: the resolution of float32
    mean = tf.reduce_mean(tf.square(input), axis=axes, keepdims=True)
    return _affine(input * tf.math.rsqrt(mean + epsilon), weight, None)


@op("batch_norm.default")
def _batch_norm(
    call: Call, input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool,
    momentum: float, eps: float, cudnn_enabled: bool = True,
) -> Any:  # fmt: skip
    if training or running_mean is None:
        raise call.unsupported("with statistics of the batch; the answer for a row would depend on its neighbours")

    def channel(value: Any) -> Any:  # channels are the second axis, whatever follows
        return None if value is None else tf.reshape(value, [-1, *[1] * (input.shape.rank - 2)])

    normal = (input - channel(running_mean)) * tf.math.rsqrt(channel(running_var) + eps)
    return _affine(normal, channel(weight), channel(bias))


@op("_native_batch_norm_legit_no_training.default")
def _batch_norm_no_training(
    call: Call, input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, momentum: float, eps: float
) -> Any:
    out = _batch_norm(call, input, weight, bias, running_mean, running_var, False, momentum, eps)
    return out, tf.zeros([0]), tf.zeros([0])


@op("group_norm.default")
def _group_norm(
    call: Call,
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    channels, inner = input.shape[1], [1] * (input.shape.rank - 2)
    grouped = tf.reshape(input, [-1, num_groups, channels // num_groups, *shape_of(input)[2:]])
    normal, _, _ = _normalise(grouped, range(2, grouped.shape.rank), eps)

    def channel(value: Any) -> Any:
        return None if value is None else tf.reshape(value, [channels, *inner])

    return _affine(tf.reshape(normal, sizes(shape_of(input))), channel(weight), channel(bias))


@op("bilinear.default")
def _bilinear(call: Call, input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    product = tf.einsum("...i,oij,...j->...o", input1, weight, input2)
    return product if bias is None else product + bias


@op("scaled_dot_product_attention.default")
def _attention(
    call: Call, query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    if dropout_p or is_causal or enable_gqa:
        raise call.unsupported("with dropout, a causal mask or grouped queries")
    factor = scale if scale is not None else 1.0 / math.sqrt(query.shape[-1])
    scores = tf.matmul(query, key, transpose_b=True) * factor
    if attn_mask is not None:
        lowest = tf.constant(-math.inf, scores.dtype)
        scores = tf.where(attn_mask, scores, lowest) if attn_mask.dtype == tf.bool else scores + attn_mask
    return tf.matmul(tf.nn.softmax(scores, axis=-1), value)
