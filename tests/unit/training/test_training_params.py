"""Parameters are refused before a process is started, with the field."""

import pytest

from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.training.loop import learning_rate
from airflow_ml.training.params import Params, parse


@pytest.mark.parametrize(
    ("params", "field", "said"),
    [
        ({"epochs": 0}, "training.params.epochs", "greater than or equal to 1"),
        ({"learning_rate": float("nan")}, "training.params.learning_rate", "finite"),
        ({"dropout": 1}, "training.params.dropout", "less than 1"),
        ({"hidden": []}, "training.params.hidden", "at least one layer"),
        ({"hidden": [8, "wide"]}, "training.params.hidden.1", "integer"),
        ({"batchsize": 3}, "training.params.batchsize", "batch_size"),
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
