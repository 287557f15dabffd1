"""What a look reads of the prediction log: whose turn it was, since when, and which labels came."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_ml import Platform
from airflow_ml.lifecycle import rollout_plans
from airflow_ml.lifecycle.distributions import auc
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.lifecycle.rollout import Rollout, State
from airflow_ml.stages._rollout_looks import arms
from airflow_ml.stages.context import StageContext
from tests.support.released import record
from tests.support.rollouts import ROWS, log_requests, model

SOME = ROWS[:100]


@pytest.fixture
def ctx(tmp_path) -> StageContext:
    return StageContext(JobRequest(stage="rollout", model=model, platform=Platform(base=str(tmp_path))))


def rollout(ctx: StageContext, state: State, since: datetime | None = None) -> Rollout:
    since = since or datetime.now(UTC) - timedelta(seconds=10)
    release = record(ctx.platform, model.name, 2)
    begun = rollout_plans.begin(release, 1, model.serving.canary, since)
    return begun.model_copy(update={"state": state})


def test_without_a_log_nothing_was_seen(ctx: StageContext):
    assert [each.requests for each in arms(ctx, rollout(ctx, State.CANARY))] == [0, 0]


def test_a_request_counts_for_the_arm_whose_turn_it_was(ctx: StageContext):
    log_requests(ctx.platform, SOME)
    log_requests(ctx.platform, SOME[:50], arm="canary", model_version=2, latency_ms=9.0)
    log_requests(ctx.platform, SOME[:7], arm="canary", error="timeout", fallback="previous")
    log_requests(ctx.platform, SOME[:5], arm="canary", error="failed", probability=None)
    log_requests(ctx.platform, SOME[:4], arm="canary", error="withheld", fallback="previous")
    log_requests(ctx.platform, SOME[:3], arm="shadow", model_version=2)
    log_requests(ctx.platform, SOME[:2], arm="shadow", model_version=9)
    stable, canary = arms(ctx, rollout(ctx, State.CANARY))
    assert (stable.requests, stable.errors) == (100, 0)
    assert (canary.requests, canary.errors) == (62, 12), "who was spared was not asked"
    assert canary.latency_ms.total == canary.scores.total == 50
    assert 8 < canary.latency_ms.quantile(0.99) < 11
    assert [each.requests for each in arms(ctx, rollout(ctx, State.SHADOW))] == [100, 3]


def test_a_version_that_is_watched_is_compared_with_what_was_before_it(ctx: StageContext):
    log_requests(ctx.platform, SOME)
    since = datetime.now(UTC)
    log_requests(ctx.platform, SOME[:40], model_version=2)
    log_requests(ctx.platform, SOME[:6], model_version=1, error="wrong_answer", fallback="previous")
    log_requests(ctx.platform, SOME[:5], model_version=1)  # of a gateway that did not know yet
    before, after = arms(ctx, rollout(ctx, State.WATCH, since))
    assert (before.requests, before.errors) == (100, 0)
    assert (after.requests, after.errors) == (46, 6)


def test_what_was_before_the_step_is_not_seen(ctx: StageContext):
    log_requests(ctx.platform, SOME, arm="canary", model_version=2)
    assert [each.requests for each in arms(ctx, rollout(ctx, State.CANARY, datetime.now(UTC)))] == [0, 0]


def test_labels_that_came_are_joined_by_entity(ctx: StageContext):
    log_requests(ctx.platform, SOME)
    log_requests(ctx.platform, SOME, arm="canary", model_version=2, probability=lambda row: 0.9)
    table = ctx.table("outcomes")
    attempt = table.attempt()
    labels = [row["hour"] >= 12 if number < 60 else None for number, row in enumerate(SOME)]
    content = pa.table({"id": [row["id"] for row in SOME], "label": pa.array(labels, pa.bool_())})
    day = datetime.now(UTC).date()
    pq.write_table(content, attempt.partition(day) / "part.parquet")
    table.commit(attempt, {day: "f" * 64}, content.schema)
    stable, canary = arms(ctx, rollout(ctx, State.CANARY))
    late = sum(label is True for label in labels)
    for arm in (stable, canary):
        assert arm.positives is not None
        assert arm.negatives is not None
        assert (arm.positives.total, arm.negatives.total) == (late, 60 - late)
    assert auc(stable.positives, stable.negatives) == 1.0
    assert auc(canary.positives, canary.negatives) == 0.5
