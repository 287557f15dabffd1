"""A look at the two arms of a rollout: what the prediction log says of them since its state began.

The log comes to the lake some seconds after the answers, batch by batch, so that a look sees a little less than what
happened, of both arms alike.
"""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.judging import ArmStats, Judgement, Verdict, judge
from airflow_ml.lifecycle.rollout import CANARY, Rollout, State
from airflow_ml.lifecycle.routing import SHADOW, STABLE
from airflow_ml.stages._rollout_arms import Arm, Labels
from airflow_ml.stages._rollout_replay import replay
from airflow_ml.stages._rollout_server import Server
from airflow_ml.stages.context import StageContext

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, Any]

_WITHHELD = "withheld"
"""What the gateway says of a request that it spared a version on trial: it was not asked, and did not fail."""

_COLUMNS = ("arm", "model_version", "fallback", "error", "probability", "latency_ms", "at")


def look(ctx: StageContext, server: Server, rollout: Rollout, now: datetime) -> Judgement:
    """Judge what both arms did since the rollout's state, or its step, began.

    Where that is too little to judge by, what was asked before is replayed: when the wait is over, or at once, or
    never, as the request's ``replay`` says.
    """
    stable, candidate = arms(ctx, rollout)
    waited_s = (now - rollout.since).total_seconds()
    found = judge(stable, candidate, waited_s, rollout.plan.judging)
    wanted = ctx.params.get("replay")
    few = found.verdict is not Verdict.PROMOTE and candidate.requests < rollout.plan.judging.min_requests
    if rollout.state is State.WATCH or not (found.starved or (wanted and few)) or wanted is False:
        return found
    if rollout.mode == "shadow" and any(each.replayed for each in rollout.judgements):
        return found  # a person is waited for, and has these numbers already
    return replay(ctx, server, rollout, waited_s) or found


def arms(ctx: StageContext, rollout: Rollout) -> tuple[ArmStats, ArmStats]:
    """What the prediction log says of the stable version, and of the new one."""
    before, after = Arm(), Arm()
    labels = Labels.of(ctx)
    for batch in _rows(ctx, rollout):
        label = None if labels is None else labels.of_entities(batch.column("entity"))
        probability, latency_ms = _numbers(batch, "probability"), _numbers(batch, "latency_ms")
        probability[_said(batch, "error")] = math.nan
        for arm, chosen in zip((before, after), _sides(batch, rollout), strict=True):
            chosen &= ~_equal(batch, "error", _WITHHELD)
            arm.add(probability[chosen], latency_ms[chosen], None if label is None else label[chosen])
    return before.stats(), after.stats()


def _rows(ctx: StageContext, rollout: Rollout) -> "Iterator[pa.RecordBatch]":
    """The rows that say something, in no order."""
    import pyarrow as pa
    import pyarrow.dataset as pads

    table = ctx.table("online")
    if not table.exists():
        return
    since = rollout.since.astimezone(UTC).replace(tzinfo=None)
    if rollout.state is State.WATCH:
        # The old version has no traffic any more: it is compared with what it did as long before.
        since -= timedelta(seconds=max(rollout.plan.watch_s, rollout.plan.judging.max_wait_s))
    wanted = (pads.field("ds") >= since.date()) & (pads.field("at") >= pa.scalar(since, pa.timestamp("us")))
    yield from table.dataset().to_batches(columns=[*_COLUMNS, "entity"], filter=wanted)


def _sides(batch: "pa.RecordBatch", rollout: Rollout) -> "tuple[Array, Array]":
    """Which rows are of the stable version, and which of the new one.

    Whose turn it was counts, and not who answered in its place: a row that another version rescued is a failure.
    """
    stable = _equal(batch, "arm", STABLE)
    if rollout.state is State.CANARY:
        return stable, _equal(batch, "arm", CANARY)
    if rollout.state is State.SHADOW:
        return stable, _equal(batch, "arm", SHADOW) & _equal(batch, "model_version", rollout.version)
    since = rollout.since.astimezone(UTC).replace(tzinfo=None)
    later = _compared(batch, "at", "greater_equal", since)
    rescued = _equal(batch, "fallback", "previous")
    new = stable & later & (_equal(batch, "model_version", rollout.version) | rescued)
    return stable & ~later & (_equal(batch, "model_version", rollout.stable) | rescued), new


def _equal(batch: "pa.RecordBatch", column: str, value: Any) -> "Array":
    return _compared(batch, column, "equal", value)


def _compared(batch: "pa.RecordBatch", column: str, how: str, value: Any) -> "Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    values = batch.column(column)
    found = getattr(pc, how)(values, pa.scalar(value, values.type)).fill_null(False)
    return _writable(found)


def _said(batch: "pa.RecordBatch", column: str) -> "Array":
    return _writable(batch.column(column).is_valid())


def _numbers(batch: "pa.RecordBatch", column: str) -> "Array":
    import pyarrow as pa

    return _writable(batch.column(column).cast(pa.float64()).fill_null(math.nan))


def _writable(values: Any) -> "Array":
    found: Array = values.to_numpy(zero_copy_only=False).copy()
    return found
