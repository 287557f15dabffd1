"""Each group of operators: torch says one thing, the lowered graph the same, for one row and for many."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from airflow_ml.lifecycle.errors import ExportRefused

ROWS = 6


def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 [rows, 3] in 0…4, and float32 [rows, 4] with both signs, zero and something missing."""
    generator = torch.Generator().manual_seed(rows)
    whole = torch.randint(0, 5, (rows, 3), generator=generator)
    real = torch.randn((rows, 4), generator=generator) * 2
    real[0, 0] = 0.0
    real[-1, 1] = math.nan
    return whole, real


def elementwise(c, x):
    y = torch.nan_to_num(x, nan=0.5)
    p = y.abs() + 0.1
    return (
        torch.exp(y), torch.log(p), torch.log1p(p), torch.expm1(y), torch.sqrt(p), torch.rsqrt(p), p.reciprocal(),
        torch.sin(y), torch.cos(y), torch.tanh(y), torch.sigmoid(y), torch.erf(y), torch.log2(p), torch.log10(p),
        y.pow(2), p.pow(0.5), 2.0**y, torch.pow(p, p), y.square(), -y, y.sign(), y.floor(), y.ceil(), y.round(),
        y.trunc(), torch.special.logit(torch.sigmoid(y), eps=1e-6), torch.atan2(y, p), y % 0.7, torch.fmod(y, 0.7),
    )  # fmt: skip


def arithmetic(c, x):
    y = torch.nan_to_num(x)
    return (
        y + c[:, :1], c + 1, c + 0.5, y - 2, 3 - y, 3 - c, y * 2, c * y[:, :3], y / 3, c / 2, c // 2, y // 0.5,
        torch.div(y, 0.3, rounding_mode="trunc"), torch.div(c, 2, rounding_mode="trunc"), torch.add(y, y, alpha=3),
        torch.sub(y, 1, alpha=2), torch.addcmul(y, y, y, value=0.5), torch.addcdiv(y, y, y.abs() + 1), -c,
        torch.lerp(y, y + 1, 0.3), torch.maximum(y, y.flip(1)), torch.minimum(c, c + 1), (c % 2).float(), c == y[:, :3],
    )  # fmt: skip


def comparisons(c, x):
    return (
        x > 0, x >= 0, x < 0, x <= 0, x == 0, x != 0, c > 1.5, c == 2, torch.isnan(x), torch.isinf(x / 0),
        torch.isfinite(x), (x > 0) & (x < 1), (x > 0) | (x < -1), ~(x > 0), (x > 0) ^ (x > 1), c & 1, c | 4, c ^ 1, ~c,
        torch.logical_and(c, x[:, :3]), torch.logical_or(c > 1, x[:, :3] > 0), torch.logical_not(c),
        torch.where(x > 0, x, 0.0), torch.where(x > 0, 1.0, 2.0), torch.where(c > 2, c, -c), (x > 0).any(),
        (x > 0).all(1), x.masked_fill(x < 0, 9.0), torch.clamp(x, -1, 1), x.clamp(min=0), x.clamp(max=0),
        torch.clamp(x, x * 0 - 1, x * 0 + 1), F.hardtanh(x), torch.nan_to_num(x / 0, 0.0, 5.0, -5.0),
        torch.nan_to_num(c),
    )  # fmt: skip


def reductions(c, x):
    y = torch.nan_to_num(x)
    return (
        y.sum(1), y.mean(1), y.sum(1, keepdim=True), y.mean((0, 1)), y.sum(), (y > 0).sum(1), c.sum(), y.amax(1),
        y.amin(1, keepdim=True), y.max(), y.min(), y.max(1).values, y.min(1).indices, y.argmax(1), y.argmin(1, True),
        y.var(1), y.std(1), y.var(1, correction=0), y.var(1, unbiased=False), y.prod(1), torch.logsumexp(y, 1),
        y.cumsum(1), c.cumsum(1), y.norm(dim=1), F.normalize(y, dim=1),
    )  # fmt: skip


def shapes(c, x):
    y = torch.nan_to_num(x)
    n = y.shape[0]
    return (
        y.view(n, 2, 2), y.reshape(-1, 2), y.unsqueeze(1).squeeze(1), y.t(), y.transpose(0, 1),
        y[:, None, :].permute(2, 0, 1),
        y.unsqueeze(1).expand(-1, 3, -1), y.repeat(1, 2), y.unsqueeze(0).repeat(2, 1, 1), y.flatten(),
        y.view(n, 2, 2).flatten(1),
        torch.cat([y, c], 1), torch.stack([y, y], 1), y.split(2, 1), y.split([1, 3], 1), y.chunk(2, 1), y.unbind(1),
        y[:, 1], y[:, 1:3], y[:, ::2], y[:, 1:], y[:, -1], y.flip(1), y.roll(1, 1), y.narrow(1, 1, 2),
        y.clone().detach(),
        y.index_select(1, torch.tensor([2, 0])), y.gather(1, c % 4), y[:, torch.tensor([0, -1])],
        y[c[:, 0] * 0, c[:, 0] % 4],
        y.contiguous().view(-1), y.repeat_interleave(2, dim=1), y.unflatten(1, (2, 2)), y.tile(1, 2),
        y[:, :1].squeeze(1),
        y.expand_as(y), y.view_as(y), y.movedim(0, 1), y.swapaxes(0, 1), y.float().double().to(torch.int64),
    )  # fmt: skip


def made(c, x):
    n = x.shape[0]
    edges = torch.tensor([-1.0, 0.0, 1.0])
    return (
        torch.zeros(n, 2) + 1, torch.ones(n), torch.full((n, 2), 3), torch.zeros_like(x), torch.ones_like(c),
        torch.full_like(x, 2), x.new_zeros(n), x.new_ones(2), x.new_full((1,), 2), torch.arange(4),
        torch.arange(1, 9, 2),
        torch.arange(n), torch.searchsorted(edges, x.contiguous()), torch.bucketize(x.contiguous(), edges, right=True),
        torch.bucketize(c, torch.tensor([1, 3])), F.one_hot(c, 5), c.to(torch.float32), (x > 0).float(),
        x.to(torch.bool),
        c.int().long(), torch.tensor(2.0) * x, c.type_as(x),
    )  # fmt: skip


def activations(c, x):
    y = torch.nan_to_num(x)
    return (
        F.relu(y), F.relu6(y * 4), F.gelu(y), F.gelu(y, approximate="tanh"), F.silu(y), F.mish(y), F.elu(y), F.selu(y),
        F.celu(y), F.leaky_relu(y, 0.2), F.softplus(y), F.softplus(y * 20), F.softsign(y), F.logsigmoid(y),
        F.hardswish(y),
        F.hardsigmoid(y), F.softmax(y, 1), F.log_softmax(y, -1), F.glu(y), F.prelu(y, torch.tensor([0.3])),
        F.threshold(y, 0.1, 7.0), F.dropout(y, 0.5, training=False), F.tanhshrink(y), F.softmin(y, 1),
    )  # fmt: skip


def products(c, x):
    y = torch.nan_to_num(x)
    w = torch.linspace(-1, 1, 12).view(3, 4)
    cube = y.view(-1, 2, 2)
    return (
        F.linear(y, w), F.linear(y, w, torch.ones(3)), F.linear(cube, w[:2, :2]), y @ w.t(), torch.mm(y, w.t()),
        torch.addmm(torch.ones(3), y, w.t(), beta=0.5, alpha=2), torch.bmm(cube, cube), torch.matmul(cube, cube),
        torch.mv(y, w[0]), y @ w[0], w[0] @ w[0], torch.einsum("bi,bj->bij", y, y), torch.outer(w[0], w[1]),
        F.scaled_dot_product_attention(cube, cube, cube), F.cosine_similarity(y, y + 1), F.embedding(c, torch.eye(5)),
    )  # fmt: skip


class Layers(torch.nn.Module):
    """Layers with weights, of the kinds that networks for tables have."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(5, 4, padding_idx=0)
        self.batch_norm = torch.nn.BatchNorm1d(4)
        self.batch_norm.running_mean.uniform_()
        self.batch_norm.running_var.uniform_(0.5, 2)
        self.layer_norm = torch.nn.LayerNorm(4)
        self.rms_norm = torch.nn.RMSNorm(4)
        self.group_norm = torch.nn.GroupNorm(2, 4)
        self.bilinear = torch.nn.Bilinear(4, 4, 2)
        self.attention = torch.nn.MultiheadAttention(4, 2, batch_first=True)
        self.encoder = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.dropout = torch.nn.AlphaDropout(0.5)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, c, x):
        y = torch.nan_to_num(x)
        tokens = self.embedding(c)
        attended, weights = self.attention(tokens, tokens, tokens)
        h = self.dropout(y.clone())
        h += 1  # in place, on a copy
        return (
            tokens, self.batch_norm(y), self.batch_norm(tokens.transpose(1, 2)), self.layer_norm(tokens),
            self.rms_norm(y), self.group_norm(y), self.bilinear(y, y), attended, weights, self.encoder(tokens),
        h * self.scale,
        )  # fmt: skip


class Plain(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.name = function.__name__

    def forward(self, c, x):
        return self.function(c, x)


def flat(result):
    return [leaf for item in result for leaf in (flat(item) if isinstance(item, (tuple, list)) else [item])]


GROUPS = [elementwise, arithmetic, comparisons, reductions, shapes, made, activations, products]


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", [*map(Plain, GROUPS), Layers()], ids=lambda m: getattr(m, "function", type(m)).__name__
)
def test_lowered_graphs_say_what_torch_says(module):
    from airflow_ml.serving.engines import tensorflow
    from airflow_ml.serving.export.converter import TorchProgram, capture

    tf = tensorflow()
    module.eval()
    network = TorchProgram(capture(module, inputs(ROWS)))
    signature = [tf.TensorSpec([None, 3], tf.int64), tf.TensorSpec([None, 4], tf.float32)]
    function = tf.function(network, input_signature=signature, autograph=False)
    for rows in (1, 2, ROWS, 50):
        given = inputs(rows)
        with torch.no_grad():
            expected = flat(module(*given))
        found = [tensor.numpy() for tensor in flat(function(*(tensor.numpy() for tensor in given)))]
        assert len(found) == len(expected)
        for place, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            message = f"output {place} of {rows} rows"
            assert ours.dtype == theirs.numpy().dtype, message
            assert ours.shape == theirs.shape, message
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-5, atol=2e-5, err_msg=message)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda c, x: torch.special.bessel_j0(x) + torch.linalg.det(x[:, :2, None] * x[:, None, :2])[:, None],
         r"2 operator\(s\).*aten\._linalg_det\.default, aten\.special_bessel_j0\.default"),
        (lambda c, x: x.sum(1) if x.sum() > 0 else x.mean(1), "torch.export cannot capture"),
        (lambda c, x: torch.rand_like(x) + x, r"aten\.rand"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_refused_by_name(function, says):
    from airflow_ml.serving.export.converter import capture

    with pytest.raises(ExportRefused, match=says) as refused:
        capture(Plain(function), inputs(ROWS), "my network")
    assert refused.value.where == "my network"
    assert "builder" in refused.value.remedy


def test_a_known_operator_in_a_form_without_counterpart_is_refused_too():
    from airflow_ml.serving.engines import tensorflow
    from airflow_ml.serving.export.converter import TorchProgram, capture

    program = capture(Plain(lambda c, x: x[x[:, 0] > 0]), inputs(ROWS))
    with pytest.raises(ExportRefused, match=r"aten\.index\.Tensor.*mask"):
        TorchProgram(program)(*(tensorflow().constant(tensor.numpy()) for tensor in inputs(ROWS)))
