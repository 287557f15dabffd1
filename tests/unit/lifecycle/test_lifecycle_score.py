"""Scoring and feedback on real tables: repeated, raced, killed, under a new champion, and with what is missing."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from airflow_ml.lifecycle.errors import MissingPartition, NotReleasable
from airflow_ml.lifecycle.windows import Window
from airflow_ml.registry import champions
from airflow_ml.serving.scorer import SavedModelScorer
from airflow_ml.spec import Monitoring, Scoring
from tests.support.finished import (
    NIGHT,
    Finished,
    commit,
    commit_features,
    commit_outcomes,
    crown,
    nights,
    register,
)
from tests.support.killing import COMMIT_MOMENTS, run_in_process
from tests.unit.lifecycle import steps

pytestmark = pytest.mark.slow
DATA = ["id", "probability", "decision", "model_version", "release", "ds"]


@pytest.fixture
def champion(done: Finished) -> Finished:
    """A base with a champion, version 1, and one night of features."""
    crown(done, register(done))
    commit_features(done)
    return done


def predictions(done: Finished, day=NIGHT) -> pa.Table:
    return done.table("predictions").read(Window.of(day))


def test_a_night_is_scored_by_the_champion(champion: Finished) -> None:
    result = champion.run("score", Window.of(NIGHT))
    assert (result.rows, result.summary["version"]) == (300, 1)
    table = predictions(champion)
    release = champions.champion(champion.platform, "small")
    features = champion.table("features").read(Window.of(NIGHT))
    with SavedModelScorer(release.saved_model.uri) as scorer:
        expected = scorer.predict({name: features[name].to_numpy() for name in ("carrier", "x", "y")})
    assert table["id"].to_pylist() == features["id"].to_pylist()
    np.testing.assert_array_equal(table["probability"].to_numpy(), expected)
    np.testing.assert_array_equal(table["decision"].to_numpy(), expected >= 0.5)
    assert set(table["release"].to_pylist()) == {release.id}
    assert table.schema.field("probability").type == pa.float32()


def test_another_threshold_decides_anew_and_batches_do_not_change_the_answers(champion: Finished) -> None:
    champion.run("score", Window.of(NIGHT))
    whole = predictions(champion)
    champion.model = champion.model.model_copy(update={"scoring": Scoring(threshold=0.46, batch_rows=7)})
    assert not champion.run("score", Window.of(NIGHT)).reused
    again = predictions(champion)
    np.testing.assert_allclose(again["probability"], whole["probability"], atol=1e-6)
    np.testing.assert_array_equal(again["decision"].to_numpy(), again["probability"].to_numpy() >= np.float32(0.46))
    assert again["decision"] != whole["decision"]


def test_a_rerun_changes_nothing_and_a_new_champion_rescores(champion: Finished) -> None:
    champion.run("score", Window.of(NIGHT))
    first, version = predictions(champion), champion.table("predictions").snapshot().version
    assert champion.run("score", Window.of(NIGHT)).reused
    assert champion.table("predictions").snapshot().version == version
    assert predictions(champion).equals(first)

    crown(champion, register(champion))
    assert not champion.run("score", Window.of(NIGHT)).reused
    assert set(predictions(champion)["model_version"].to_pylist()) == {2}
    # Pinned, the first version gives the bytes that it gave then.
    champion.run("score", Window.of(NIGHT), version=1)
    assert predictions(champion).select(DATA).equals(first.select(DATA))


def test_a_night_inside_a_window_that_was_scored_is_current(champion: Finished) -> None:
    for day in nights(3)[1:]:
        commit_features(champion, day)
    window = Window.of(NIGHT, NIGHT + timedelta(days=2))
    assert champion.run("score", window).rows == 900
    version = champion.table("predictions").snapshot().version
    result = champion.run("score", Window.of(NIGHT + timedelta(days=1)))
    assert result.summary["current"] == 1
    assert champion.table("predictions").snapshot().version == version


def test_an_empty_night_is_committed_empty(champion: Finished) -> None:
    day = NIGHT + timedelta(days=1)
    commit_features(champion, day, count=0)
    assert champion.run("score", Window.of(day)).rows == 0
    assert champion.table("predictions").missing([day]) == []


def test_what_is_missing_is_named_with_its_remedy(done: Finished) -> None:
    with pytest.raises(NotReleasable, match=r"there is no champion yet.*trigger small_training"):
        done.run("score", Window.of(NIGHT))
    crown(done, register(done))
    with pytest.raises(MissingPartition, match="airflow-ml run features small --from 2013-02-01"):
        done.run("score", Window.of(NIGHT))
    commit(done.table("features"), NIGHT, pa.table({"id": ["a"], "carrier": ["AA"], "x": [1.0]}), "no y")
    with pytest.raises(MissingPartition, match="feature columns that the model takes are missing: y"):
        done.run("score", Window.of(NIGHT))
    assert not done.table("predictions").exists()


def test_a_rejected_version_cannot_be_pinned(champion: Finished) -> None:
    rejected = register(champion, auc=0.1)
    with pytest.raises(NotReleasable, match="was rejected by its gates"):
        champion.run("score", Window.of(NIGHT), version=rejected)


def test_two_runs_of_one_night_at_once_leave_one_commit(champion: Finished) -> None:
    request = champion.request("score", Window.of(NIGHT))
    assert steps.at_once(request, request) == ["done", "done"]
    # Version 0 is the empty table.
    assert champion.table("predictions").snapshot().version == 1
    assert predictions(champion).num_rows == 300


@pytest.mark.parametrize("moment", COMMIT_MOMENTS)
def test_score_killed_at_any_step_ends_like_one_that_was_not(champion: Finished, moment: str) -> None:
    request = champion.request("score", Window.of(NIGHT))
    code, _, output = run_in_process(request, moment)
    assert code == -9, output
    champion.run("score", Window.of(NIGHT))
    killed = predictions(champion).select(DATA)
    assert champion.table("predictions").snapshot().version == 1
    # The same night again, from features that were committed anew: nobody was killed this time.
    commit_features(champion, seed=8)
    commit_features(champion, seed=7)
    champion.run("score", Window.of(NIGHT))
    assert killed.equals(predictions(champion).select(DATA))


# feedback


def labels(shares: dict[bool | None, int]) -> dict[str, bool | None]:
    """Outcomes of the first rows of the night, so many of each label."""
    wanted = [label for label, count in shares.items() for _ in range(count)]
    return {f"{NIGHT}-{n}": label for n, label in enumerate(wanted)}


def test_feedback_tells_labelled_arrived_and_missing_apart(champion: Finished) -> None:
    champion.run("score", Window.of(NIGHT))
    commit_outcomes(champion, labels({True: 100, False: 120, None: 50}) | {"nobody": True})
    result = champion.run("feedback", Window.of(NIGHT))
    assert result.summary["labelled"] == 220
    assert result.summary["arrived_without_label"] == 50
    assert result.summary["missing"] == 30
    assert result.metrics["coverage"] == pytest.approx(220 / 250)
    assert result.summary["judged"] is True
    table = champion.table("feedback").read(Window.of(NIGHT))
    assert table["id"].to_pylist() == predictions(champion)["id"].to_pylist()
    assert table["label"].to_pylist() == [True] * 100 + [False] * 120 + [None] * 80
    assert table["arrived"].to_pylist() == [True] * 270 + [False] * 30


def test_a_window_below_the_declared_coverage_is_not_judged(champion: Finished) -> None:
    champion.model = champion.model.model_copy(update={"monitoring": Monitoring(min_coverage=0.9)})
    champion.run("score", Window.of(NIGHT))
    commit_outcomes(champion, labels({True: 200}))
    result = champion.run("feedback", Window.of(NIGHT))
    assert result.metrics["coverage"] == pytest.approx(2 / 3)
    assert result.summary["judged"] is False


def test_late_outcomes_make_the_feedback_stale(champion: Finished) -> None:
    champion.run("score", Window.of(NIGHT))
    commit_outcomes(champion, labels({True: 10}))
    assert champion.run("feedback", Window.of(NIGHT)).summary["labelled"] == 10
    assert champion.run("feedback", Window.of(NIGHT)).reused
    commit_outcomes(champion, labels({True: 250}))
    assert champion.run("feedback", Window.of(NIGHT)).summary["labelled"] == 250


def test_feedback_without_outcomes_names_the_remedy(champion: Finished) -> None:
    champion.run("score", Window.of(NIGHT))
    with pytest.raises(MissingPartition, match="ingest_outcomes"):
        champion.run("feedback", Window.of(NIGHT))


@pytest.mark.parametrize("moment", COMMIT_MOMENTS)
def test_feedback_killed_at_any_step_ends_like_one_that_was_not(champion: Finished, moment: str) -> None:
    champion.run("score", Window.of(NIGHT))
    commit_outcomes(champion, labels({True: 100, False: 150}))
    code, _, output = run_in_process(champion.request("feedback", Window.of(NIGHT)), moment)
    assert code == -9, output
    result = champion.run("feedback", Window.of(NIGHT))
    assert result.summary["labelled"] == 250
    assert champion.table("feedback").snapshot().version == 1
    assert champion.table("feedback").read(Window.of(NIGHT)).num_rows == 300
