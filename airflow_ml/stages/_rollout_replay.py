"""Replay: where no live traffic tells two versions apart, both are asked what was asked before.

The requests are those of the prediction log, or the newest rows of the feature table where the log keeps none. They go
to the model server itself, to both versions in turn, so that nobody's answer depends on it and both meet the same hour.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.lifecycle.judging import Judgement, Verdict, judge
from airflow_ml.lifecycle.rollout import Rollout
from airflow_ml.lifecycle.routing import SHADOW
from airflow_ml.registry import champions
from airflow_ml.stages._rollout_arms import Arm, Labels
from airflow_ml.stages._rollout_server import Server
from airflow_ml.stages.context import StageContext, log

if TYPE_CHECKING:
    import numpy as np

_AT_A_TIME = 50
"""Requests after which what was seen is judged: a version that is bad is not asked for long."""

_LONGEST_S = 60.0


@dataclass(frozen=True)
class _Logged:
    """A request that was asked before."""

    entity: str
    features: dict[str, Any]


def replay(ctx: StageContext, server: Server, rollout: Rollout, waited_s: float) -> Judgement | None:
    """Judge by the answers of both versions to logged requests; None where nothing was logged.

    Args:
        ctx: Of the stage.
        server: Is asked.
        rollout: Both versions are loaded.
        waited_s: For how long live traffic was waited for.
    """
    assert rollout.stable is not None
    policy = rollout.plan.judging
    requests = _logged(ctx, policy.min_requests)
    if not requests:
        log.info("nothing to replay: neither logged requests nor features")
        return None
    versions = (rollout.stable, rollout.version)
    signatures = [champions.release_of(ctx.platform, ctx.model.name, version).signature for version in versions]
    labels = Labels.of(ctx)
    arms = (Arm(), Arm())
    asked, end = 0, time.monotonic() + _LONGEST_S
    stream = cycle(requests)
    found: Judgement | None = None
    with server.client() as client:
        while asked < policy.min_requests and time.monotonic() < end:
            some = list(islice(stream, min(_AT_A_TIME, policy.min_requests - asked)))
            asked += len(some)
            for arm, version, signature in zip(arms, versions, signatures, strict=True):
                deadline = ctx.model.serving.online.deadline_ms / 1e3
                answers = [_asked(client, server.model, version, signature, each, deadline) for each in some]
                arm.add(*_columns(answers), None if labels is None else labels.of_entities([r.entity for r in some]))
            found = judge(arms[0].stats(), arms[1].stats(), policy.max_wait_s, policy)
            if found.verdict is Verdict.ROLL_BACK and not found.starved:
                break
    assert found is not None
    return found.model_copy(
        update={"replayed": asked, "waited_s": waited_s, "reason": f"{found.reason} ({asked} requests replayed)"}
    )


def _asked(
    client: Any, model: str, version: int, signature: dict[str, str], request: _Logged, deadline_s: float
) -> tuple[float, float]:
    """Probability, NaN where there is none, and milliseconds."""
    import numpy as np

    from airflow_ml.lifecycle.preprocessing import as_text, as_whole

    columns: dict[str, np.ndarray[Any, Any]] = {}
    for name, dtype in signature.items():
        column = np.array([request.features.get(name)], dtype=object)
        if dtype == "string":
            columns[name] = as_text(column)
        elif dtype.startswith(("int", "uint")):
            columns[name] = as_whole(column)
        else:
            columns[name] = np.array([math.nan if value is None else value for value in column], dtype=np.float32)
    began = time.perf_counter()
    try:
        answer = client.predict(model, columns, version=version, deadline=deadline_s).probability.reshape(-1)
    except (ServingError, ValueError):
        return math.nan, math.nan
    ms = (time.perf_counter() - began) * 1e3
    return (float(answer[0]) if len(answer) == 1 else math.nan), ms


def _columns(answers: Sequence[tuple[float, float]]) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    import numpy as np

    both = np.array(answers, dtype=float)
    return both[:, 0], both[:, 1]


def _logged(ctx: StageContext, most: int) -> list[_Logged]:
    """Requests of the newest day that has any: of the prediction log, else rows of the feature table."""
    online, features = ctx.table("online"), ctx.table("features")
    asked = _newest(online, ["entity", "inputs", "arm"], most, lambda row: row["inputs"] and row["arm"] != SHADOW)
    if asked:
        return [_Logged(row["entity"], json.loads(row["inputs"])) for row in asked]
    entity = ctx.model.features.entity
    rows = _newest(features, [entity, *ctx.model.features.columns], most, bool)
    return [_Logged(str(row[entity]), row) for row in rows]


def _newest(table: LakeTable, columns: list[str], most: int, wanted: Callable[[dict[str, Any]], Any]) -> list[Any]:
    """Rows of the newest partition that has any."""
    import pyarrow.dataset as pads

    days = [day for day, rows in table.snapshot().rows.items() if rows] if table.exists() else []
    found: list[Any] = []
    if days:
        # Rows are chosen here: of a file whose statistics leave columns out, as a log's do, pyarrow's filters choose
        # nothing by those columns.
        for batch in table.dataset().to_batches(columns=columns, filter=pads.field("ds") == days[-1]):
            found += filter(wanted, batch.to_pylist())
            if len(found) >= most:
                break
    return found[:most]
