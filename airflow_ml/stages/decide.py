"""Decide: whether a window's observation starts a training, kept with its reasons in the ledger table ``decisions``.

The decision is a pure function (`lifecycle.retraining`) of the observation, the declaration and the earlier windows'
rows. A rerun of a window finds its partition and says the same again. When the observation changed since (labels came
late), the window is decided again, except that ``retrain`` stands: its training was started, which cooldown and budget
have to know.
"""

import json
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.lake import Attempt, LakeTable
from airflow_ml.lifecycle.observations import Observation
from airflow_ml.lifecycle.requests import JobResult
from airflow_ml.lifecycle.retraining import Decision, LedgerEntry, Training, decide, reach, run_id, unsettled
from airflow_ml.lifecycle.windows import Window
from airflow_ml.stages._files import file_of
from airflow_ml.stages.base import Outcome, PartitionStage
from airflow_ml.stages.context import StageContext
from airflow_ml.storage import verify

if TYPE_CHECKING:
    import pyarrow as pa


NUMBERS = ("rows", "coverage", "drifted_share", "roc_auc", "positive_rate", "prediction_mean")
"""Columns of the ledger that a person wants to see with a decision."""


class Decide(PartitionStage):
    """Table ``decisions``, one row a window, in the partition of its last day."""

    name = "decide"
    components = ("deltalake",)

    def table(self, ctx: StageContext) -> LakeTable:
        """``decisions``."""
        return ctx.table("decisions")

    def inputs(self, ctx: StageContext) -> dict[date, Any]:
        """The observation, what the declaration says about retraining, and the retrainings that can still decide."""
        model = ctx.model
        end = ctx.window.end
        return {
            end: {
                "observation": file_of(ctx.upstream("monitor"), "monitoring").sha256,
                "monitoring": model.monitoring.model_dump(mode="json"),
                "training": [model.training.window, model.training.split.model_dump(mode="json"), str(model.start)],
                "lag": model.label.lag,
                "ledger": [entry.model_dump(mode="json") for entry in _started(ctx)],
            }
        }

    def build(self, ctx: StageContext, days: Sequence[date], attempt: Attempt) -> "tuple[pa.Schema, dict[str, Any]]":
        """Decide, and stage the row."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        monitor = ctx.upstream("monitor")
        seen = _observation(monitor)
        started = _started(ctx)
        decision = _standing(ctx) or decide(seen, ctx.model, started)
        schema = _schema()
        row = _row(seen, decision, monitor)
        pq.write_table(pa.Table.from_pylist([row], schema), attempt.partition(ctx.window.end) / "part-00000.parquet")
        return schema, {}

    def run(self, ctx: StageContext) -> Outcome:
        """Commit the row if it is stale, and say what it says."""
        outcome = super().run(ctx)
        end = ctx.window.end
        row = ctx.table("decisions").read(Window.of(end)).to_pylist()[0]
        training = _training(row)
        outcome.summary |= {
            "decision": row["decision"],
            "reasons": json.loads(row["reasons"]),
            "news": _news(ctx, row),
            "run_id": row["run_id"],
            "window": training.window.model_dump(mode="json") if training else None,
            "resend": [again.model_dump(mode="json") for again in unsettled(ctx.model, end, _started(ctx))],
            "model_version": row["model_version"],
            "monitored": {"from": str(row["window_from"]), "to": str(row["window_to"])},
            "evidence": row["evidence"],
            "numbers": {name: row[name] for name in NUMBERS},
        }
        return outcome


def _started(ctx: StageContext) -> tuple[LedgerEntry, ...]:
    """Retrainings of earlier windows that can still decide something, oldest first."""
    table = ctx.table("decisions")
    if not table.exists():
        return ()
    end = ctx.window.end
    before = Window.of(end - timedelta(days=max(1, reach(ctx.model))), end - timedelta(days=1))
    rows = table.read(before, ["ds", "decision", "run_id", "training_from", "training_to"]).to_pylist()
    found = [
        LedgerEntry(window_end=row["ds"], decision="retrain", training=_window(row)) for row in rows if row["run_id"]
    ]
    return tuple(sorted(found, key=lambda entry: entry.window_end))


def _news(ctx: StageContext, row: dict[str, Any]) -> list[str]:
    """The reasons that the window before did not have: a broken day stays in its windows, and is told once."""
    before = Window.of(ctx.window.end - timedelta(days=1))
    known = {
        reason
        for earlier in ctx.table("decisions").read(before, ["decision", "reasons"]).to_pylist()
        if earlier["decision"] == row["decision"]
        for reason in json.loads(earlier["reasons"])
    }
    return [reason for reason in json.loads(row["reasons"]) if reason not in known]


def _standing(ctx: StageContext) -> Decision | None:
    """A retraining that this very window started before."""
    table, end = ctx.table("decisions"), ctx.window.end
    rows = table.read(Window.of(end)).to_pylist() if table.exists() else []
    training = _training(rows[0]) if rows else None
    if training is None:
        return None
    reasons = json.loads(rows[0]["reasons"])
    stands = "decided before, and started: the observation has changed since"
    return Decision(
        decision="retrain", reasons=tuple(reasons if stands in reasons else [*reasons, stands]), training=training
    )


def _training(row: dict[str, Any]) -> Training | None:
    window = _window(row)
    return None if window is None else Training(run_id=row["run_id"], window=window)


def _window(row: dict[str, Any]) -> Window | None:
    return None if row["training_from"] is None else Window.of(row["training_from"], row["training_to"])


def _observation(monitor: JobResult) -> Observation:
    output = file_of(monitor, "monitoring")
    return Observation.model_validate_json(Path(verify(output.uri, output.sha256)).read_text(encoding="utf-8"))


def _row(seen: Observation, decision: Decision, monitor: JobResult) -> dict[str, Any]:
    training = decision.training
    return {
        "window_from": seen.window.start,
        "window_to": seen.window.end,
        "decision": decision.decision,
        "reasons": json.dumps(decision.reasons),
        "run_id": run_id(seen.window.end) if training else None,
        "training_from": training.window.start if training else None,
        "training_to": training.window.end if training else None,
        "model_version": seen.model_version,
        "evidence": monitor.reports["drift"].uri,
        "data_drift": seen.data_drift,
        "prediction_drift": seen.prediction_drift,
        "target_drift": seen.target_drift,
        "performance": seen.performance,
        "drifted_share": seen.drifted_share,
        "drifted_columns": json.dumps(seen.drifted_columns),
        "roc_auc": seen.roc_auc,
        "positive_rate": seen.positive_rate,
        "prediction_mean": seen.prediction_mean,
        "coverage": seen.coverage,
        "rows": seen.rows,
    }


def _schema() -> "pa.Schema":
    import pyarrow as pa

    text, day, number = pa.string(), pa.date32(), pa.float64()
    return pa.schema(
        [
            ("window_from", day),
            ("window_to", day),
            ("decision", text),
            ("reasons", text),
            ("run_id", text),
            ("training_from", day),
            ("training_to", day),
            ("model_version", pa.int64()),
            ("evidence", text),
            ("data_drift", text),
            ("prediction_drift", text),
            ("target_drift", text),
            ("performance", text),
            ("drifted_share", number),
            ("drifted_columns", text),
            ("roc_auc", number),
            ("positive_rate", number),
            ("prediction_mean", number),
            ("coverage", number),
            ("rows", pa.int64()),
        ]
    )


STAGE = Decide()
