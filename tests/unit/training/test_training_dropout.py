"""What the built-in network leaves out in training."""

import pytest
import torch

from airflow_ml.training.network import Dropout

SHARE = 0.3
STEP = (1, 2, 3, 0)
PLACES = torch.arange(2000)


def left_out(words, places, units=64):
    dropout = Dropout(SHARE)
    dropout.draw(words, places)
    return dropout(torch.ones(len(places), units)) == 0


def test_what_a_row_leaves_out_does_not_depend_on_who_has_it():
    whole = left_out(STEP, PLACES)
    for own in (PLACES[::2], PLACES[1::2], PLACES[1500:], PLACES[:0]):
        assert torch.equal(left_out(STEP, own), whole[own])


@pytest.mark.parametrize("other", [(2, 2, 3, 0), (1, 3, 3, 0), (1, 2, 4, 0), (1, 2, 3, 1)])
def test_seed_epoch_step_and_layer_leave_out_others(other):
    # Of independent ones, as many are alike as chance has it.
    alike = (left_out(STEP, PLACES) == left_out(other, PLACES)).double().mean()
    assert float(alike) == pytest.approx(SHARE**2 + (1 - SHARE) ** 2, abs=0.01)


def test_rows_and_units_are_left_out_as_often_and_as_independently_as_by_chance():
    found = left_out(STEP, PLACES).double() - SHARE
    assert float(found.mean()) == pytest.approx(0, abs=0.005)
    for each in (found, found.T):
        many, others = each.shape
        together = each @ each.T / others / (SHARE * (1 - SHARE))
        apart = together[~torch.eye(many, dtype=torch.bool)]
        assert float(apart.std()) == pytest.approx(others**-0.5, rel=0.1)
        assert float(apart.abs().max()) < 7 * others**-0.5


def test_what_is_left_is_larger_in_turn_and_without_training_nothing_is_left_out():
    dropout = Dropout(SHARE)
    dropout.draw(STEP, PLACES)
    kept = dropout(torch.ones(len(PLACES), 64))
    assert kept.unique().tolist() == pytest.approx([0, 1 / (1 - SHARE)])
    # A loop that does not draw has torch's own.
    assert float((dropout(torch.ones(1000, 64)) == 0).double().mean()) == pytest.approx(SHARE, abs=0.02)
    dropout.eval()
    assert torch.equal(dropout(torch.ones(2, 3)), torch.ones(2, 3))
