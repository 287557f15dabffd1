"""Metrics agree with scikit-learn, say why when they cannot be computed, and are as sure as they say."""

import numpy as np
import pytest
from sklearn import metrics as reference

from airflow_ml.training.metrics import calibration, curves, evaluate, roc_auc


def rows(count: int, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    scores = 1 / (1 + np.exp(-generator.normal(-1, 1, count)))
    labels = (generator.uniform(size=count) < scores).astype(np.int8)
    return labels, (scores.round(1) if ties else scores).astype(np.float32)


@pytest.mark.parametrize("ties", [False, True])
def test_values_agree_with_scikit_learn(ties):
    labels, scores = rows(2000, ties=ties)
    found = evaluate(labels, scores, threshold=0.35, seed=1, resamples=20)
    decided = scores >= 0.35
    clipped = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    expected = {
        "roc_auc": reference.roc_auc_score(labels, scores),
        "pr_auc": reference.average_precision_score(labels, scores),
        "log_loss": reference.log_loss(labels, clipped),
        "brier": reference.brier_score_loss(labels, scores),
        "precision": reference.precision_score(labels, decided),
        "recall": reference.recall_score(labels, decided),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-6), name
        assert found[name].low < found[name].value < found[name].high, name
    assert roc_auc(labels, scores) == pytest.approx(expected["roc_auc"])


def test_a_metric_that_cannot_be_computed_says_why():
    found = evaluate(np.ones(50, np.int8), np.full(50, 0.2), threshold=0.5, seed=1)
    assert found["roc_auc"].value is None
    assert "one class" in found["roc_auc"].reason
    assert found["precision"].value is None
    assert "threshold" in found["precision"].reason
    assert found["recall"].value == 0
    assert found["brier"].value == pytest.approx(0.64)
    negatives = evaluate(np.zeros(50, np.int8), np.full(50, 0.2), threshold=0.5, seed=1)
    assert negatives["recall"].value is None
    assert negatives["pr_auc"].value is None


@pytest.mark.parametrize(
    ("labels", "scores", "said"), [([], [], "no rows"), ([0, 1], [0.1, np.nan], "1 probabilities")]
)
def test_nothing_is_computed_on_nothing(labels, scores, said):
    found = evaluate(np.array(labels), np.array(scores, dtype=np.float64), threshold=0.5, seed=1)
    assert {estimate.value for estimate in found.values()} == {None}
    assert all(said in estimate.reason for estimate in found.values())
    assert calibration(np.array(labels), np.array(scores, dtype=np.float64)) == []


def test_intervals_are_the_same_for_the_same_seed_and_cover():
    assert evaluate(*rows(500), 0.5, seed=3) == evaluate(*rows(500), 0.5, seed=3)
    truth = evaluate(*rows(200_000, seed=99), 0.5, seed=1, resamples=0)["roc_auc"].value
    intervals = [evaluate(*rows(400, seed), 0.5, seed=1)["roc_auc"] for seed in range(60)]
    covered = sum(found.low <= truth <= found.high for found in intervals)
    # 95 % of 60 are 57; fewer than 50 has a chance below one in ten thousand.
    assert covered >= 50


def test_memory_of_the_bootstrap_does_not_change_its_numbers(monkeypatch):
    whole = evaluate(*rows(300), 0.5, seed=3, resamples=7)
    monkeypatch.setattr("airflow_ml.training.metrics._CHUNK_VALUES", 600)
    for name, found in evaluate(*rows(300), 0.5, seed=3, resamples=7).items():
        assert (found.low, found.high) == pytest.approx((whole[name].low, whole[name].high)), name


def test_calibration_bins_cover_every_row_once():
    labels, scores = rows(5000)
    bins = calibration(labels, scores)
    assert sum(found.rows for found in bins) == 5000
    assert len(bins) == 10
    assert [found.predicted for found in bins] == sorted(found.predicted for found in bins)
    assert all(found.low <= found.predicted <= found.high for found in bins)
    distance = sum(found.rows * abs(found.predicted - found.observed) for found in bins) / 5000
    assert evaluate(labels, scores, 0.5, seed=1, resamples=0)["ece"].value == pytest.approx(distance)


def test_calibration_does_not_part_equal_probabilities():
    labels, _ = rows(100)
    bins = calibration(labels, np.repeat([0.1, 0.9], 50).astype(np.float32))
    assert [(found.rows, found.low, found.high) for found in bins] == [
        (50, pytest.approx(0.1), pytest.approx(0.1)),
        (50, pytest.approx(0.9), pytest.approx(0.9)),
    ]


def test_curves_end_at_their_corners():
    found = curves(*rows(5000))
    assert found is not None
    assert (found.false_positive_rate[[0, -1]] == [0, 1]).all()
    assert (found.true_positive_rate[[0, -1]] == [0, 1]).all()
    area = np.trapezoid(found.true_positive_rate, found.false_positive_rate)
    assert area == pytest.approx(roc_auc(*rows(5000)), abs=2e-3)
    assert curves(np.ones(5), np.linspace(0, 1, 5)) is None
