"""Parameters are refused before a process is started, with the field."""

import numpy as np
import pytest
import torch

from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.training.context import binned_auc
from airflow_ml.training.exchange import adasum
from airflow_ml.training.loop import autocast, bin_edges, learning_rate
from airflow_ml.training.metrics import roc_auc
from airflow_ml.training.params import Params, parse


@pytest.mark.parametrize(
    ("params", "field", "said"),
    [
        ({"epochs": 0}, "training.params.epochs", "Remedy: choose 1 or more"),
        ({"hidden": "big"}, "training.params.hidden", "Remedy: write a list: (value,) in Python"),
        ({"learning_rate": float("nan")}, "training.params.learning_rate", "finite"),
        ({"dropout": 1}, "training.params.dropout", "less than 1"),
        ({"hidden": []}, "training.params.hidden", "at least one layer"),
        ({"hidden": [8, "wide"]}, "training.params.hidden.1", "integer"),
        ({"batchsize": 3}, "training.params.batchsize", "batch_size"),
        ({"reduction": "sum"}, "training.params.reduction", "'average' or 'adasum'"),
        ({"compression": "int8"}, "training.params.compression", "'none', 'fp16' or 'bf16'"),
        ({"precision": "float16"}, "training.params.precision", "'auto', 'float32' or 'bfloat16'"),
        ({"backward_passes_per_step": 0}, "training.params.backward_passes_per_step", "greater than or equal to 1"),
        ({"local_steps": 4, "reduction": "adasum"}, "training.params", "no gradients are exchanged"),
        ({"reduction": "adasum", "compression": "fp16"}, "training.params", "compares gradients as they are"),
    ],
)
def test_a_bad_parameter_is_named(params, field, said):
    with pytest.raises(SpecError) as caught:
        parse(params, own_fit=False)
    assert caught.value.where == field
    assert said in str(caught.value)


def test_a_fit_of_ones_own_has_parameters_of_its_own():
    assert parse({"epochs": 3, "temperature": 3}, own_fit=True).epochs == 3
    with pytest.raises(SpecError):
        parse({"epochs": -3, "temperature": 3}, own_fit=True)


def test_adasum_adds_what_differs_and_averages_what_does_not():
    east, north = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert adasum([east, north]).tolist() == [3, 4]
    assert adasum([east, east]).tolist() == [3, 0]
    assert adasum([east, east, north]).tolist() == [3, 4]
    # A rank that had no row in the step.
    assert adasum([torch.zeros(2), north]).tolist() == [0, 4]


def test_a_forward_pass_is_bfloat16_where_that_is_asked_for():
    def of(precision: str) -> torch.dtype:
        with autocast(torch.device("cpu"), precision):
            return torch.nn.Linear(2, 1)(torch.ones(1, 2)).dtype

    assert of("bfloat16") == torch.bfloat16
    assert of("float32") == of("auto") == torch.float32


def test_an_area_under_bins_is_nearly_that_under_scores():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 20_000)
    scores = np.clip(generator.normal(0.4 + 0.1 * labels, 0.1), 0, 1)
    bins = [np.bincount((scores[labels == label] * 65535).astype(int), minlength=65536) for label in (0, 1)]
    assert binned_auc(torch.tensor(np.array(bins))) == pytest.approx(roc_auc(labels, scores), abs=1e-4)
    assert binned_auc(torch.tensor([[0, 0], [3, 4]])) is None


def test_learning_rate_rises_and_falls():
    params = Params(epochs=10, learning_rate=1.0, warmup_epochs=2)
    rates = [learning_rate(params, step, steps=5) for step in range(50)]
    top = rates.index(max(rates))
    assert rates[0] == pytest.approx(1 / 11)
    assert top == 10
    assert rates[top] == 1.0
    assert rates == sorted(rates[: top + 1]) + sorted(rates[top + 1 :], reverse=True)
    assert rates[-1] < 0.01


def test_learning_rate_without_warmup_starts_at_the_top():
    assert learning_rate(Params(learning_rate=0.5, warmup_epochs=0), 0, steps=5) == 0.5


def test_bins_are_quantiles_where_no_value_is_frequent():
    column = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    quantiles = np.quantile(column.numpy()[:, 0], np.linspace(0, 1, 9))
    assert bin_edges(column, 8)[0].numpy() == pytest.approx(quantiles, abs=0.01)


def test_rare_values_get_bins_of_their_own_beside_one_that_most_rows_have():
    rain = torch.cat([torch.zeros(9000), torch.arange(1, 1001) / 100]).unsqueeze(1)
    edges = bin_edges(rain, 8)[0]
    assert edges[0] == 0
    assert edges[-1] == 10
    # Quantiles of the rows: 0 eight times of nine, and one bin for all rain.
    assert (edges <= 0).sum() == 3
    assert (edges.diff() > 0.5).sum() == 4


def test_a_number_of_few_values_has_an_edge_at_each_and_one_of_a_single_value_has_no_bin():
    legs = torch.tensor([1.0, 1, 1, 1, 2, 2, 3]).unsqueeze(1)
    assert bin_edges(legs, 4)[0].tolist() == [1, 2, 3, 3, 3]
    assert bin_edges(torch.ones(9, 2), 2).tolist() == [[1, 1, 1], [1, 1, 1]]
    assert bin_edges(torch.zeros(9, 0), 2).shape == (0, 3)
