"""The real loop, small: real scheduler, triggerer, API server, Spark, Horovod, TensorFlow, MLflow and Evidently."""

import pytest

from airflow_ml.lake import LakeTable
from tests.support.mail import body

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_every_stage_of_the_loop_happened(loop):
    names = {stage.name.rpartition(": ")[2] for stage in loop.summary.stages}
    assert names >= {
        *("ingest", "ingest_outcomes", "validate", "build_features", "build_training_set", "train", "evaluate"),
        *("export", "check_gates", "register", "rollout", "join_feedback", "monitor", "decide_retraining"),
    }
    assert loop.summary.nights_scored == len(loop.calendar.nights) + loop.calendar.after


def test_drift_started_the_retraining_of_its_window(loop, deployment):
    assert loop.summary.drift["verdict"] == "retrain"
    assert loop.summary.retraining["run_id"] == "drift__2013-02-17"
    assert loop.summary.retraining["outcome"] in {"promoted", "rejected", "rolled back"}
    run = deployment.rest.run("flights_training", "drift__2013-02-17")
    verdict = "rejected" if loop.summary.retraining["outcome"] == "rejected" else "passed"
    assert verdict in run["note"]


def test_the_summary_shows_what_the_verdict_was_made_of(loop):
    first = loop.summary.watched[0]
    assert (first.window, first.verdict, first.model_version) == ("2013-02-15..2013-02-17", "retrain", 1)
    assert 0 < first.drifted_share <= 1
    assert 0 < first.positive_rate < 1
    assert 0 < first.prediction_mean < 1
    assert first.log_loss > 0


def test_no_request_failed_while_the_retrained_model_was_a_canary(loop):
    online = loop.summary.online
    if loop.summary.retraining["outcome"] == "rejected":
        assert online == {}, "nothing was released"
        return
    assert online["failed"] == {}
    assert set(online["arms"]) == {"stable", "canary"}
    assert online["arms"]["canary"] < online["arms"]["stable"]
    assert online["requests"] == sum(online["arms"].values()) == sum(online["versions"].values())
    assert online["rollout"] == ("kept" if loop.summary.retraining["outcome"] == "promoted" else "rolled_back")


def test_the_retraining_was_told_to_a_person(loop, deployment, mailbox):
    (mail,) = [found for found in mailbox.mails if "retraining started" in found["subject"]]
    assert mail["to"] == "oncall@example.com"
    page = f"{deployment.rest.url}/dags/flights_training/runs/drift__2013-02-17"
    for fact in ("flights, version 1", "2013-02-15..2013-02-17", "data drift:", "roc auc", page):
        assert fact in body(mail)


def test_the_served_model_is_the_champion_and_answers(loop):
    assert 0 < loop.summary.online_prediction["probability"] < 1
    assert loop.summary.champions[0]["version"] == (2 if loop.summary.retraining["outcome"] == "promoted" else 1)


def test_every_prediction_of_a_night_was_labelled_or_counted(loop, deployment):
    nights, lake = loop.calendar.nights, deployment.base / "lake/flights"
    feedback = LakeTable(lake / "feedback").read(nights)
    assert feedback.num_rows == LakeTable(lake / "predictions").read(nights).num_rows
    assert feedback["label"].null_count < 0.2 * feedback.num_rows
