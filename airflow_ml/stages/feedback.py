"""Feedback: predictions joined with the outcomes that arrived, and how much of a window can be judged.

A prediction is *labelled*, or its outcome *arrived* without a label (a cancelled flight: nobody can say whether the
model was right), or its outcome is *missing*. Coverage is the labelled share of the predictions that could have a
label, so that a day of cancellations does not look like a day of lost data.
"""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from airflow_ml.lake import Attempt, LakeTable
from airflow_ml.lifecycle.windows import Window
from airflow_ml.stages.base import Outcome, PartitionStage
from airflow_ml.stages.context import StageContext

if TYPE_CHECKING:
    import pyarrow as pa


class Feedback(PartitionStage):
    """Table ``feedback``: entity, probability, decision, model_version, arrived, label; metric ``coverage``."""

    name = "feedback"
    components = ("pyarrow", "deltalake")

    def table(self, ctx: StageContext) -> LakeTable:
        """``feedback``."""
        return ctx.table("feedback")

    def inputs(self, ctx: StageContext) -> dict[date, Any]:
        """The predictions and outcomes of each day.

        Raises:
            MissingPartition: One of them is not committed.
        """
        dates = f"--from {ctx.window.start} --to {ctx.window.end}"
        predictions, outcomes = ctx.table("predictions"), ctx.table("outcomes")
        predictions.require(ctx.window, remedy=f"score first: airflow-ml run score {ctx.model.name} {dates}")
        outcomes.require(
            ctx.window, remedy=f"wait for the outcomes, or: airflow-ml run ingest_outcomes {ctx.model.name} {dates}"
        )
        scored, known = predictions.fences(ctx.window), outcomes.fences(ctx.window)
        return {day: {"predictions": scored[day], "outcomes": known[day]} for day in ctx.window}

    def build(self, ctx: StageContext, days: Sequence[date], attempt: Attempt) -> "tuple[pa.Schema, dict[str, Any]]":
        """Write one file a day, in the order of the predictions."""
        import pyarrow.parquet as pq

        schema = _schema(ctx)
        for day in days:
            pq.write_table(_join(ctx, day, schema), attempt.partition(day) / "part-00000.parquet")
        return schema, {}

    def run(self, ctx: StageContext) -> Outcome:
        """Commit what is stale, then count the whole window."""
        outcome = super().run(ctx)
        outcome.metrics, counts = _coverage(ctx)
        coverage = outcome.metrics["coverage"]
        outcome.summary |= counts
        outcome.summary["judged"] = coverage is not None and coverage >= ctx.model.monitoring.min_coverage
        outcome.summary["min_coverage"] = ctx.model.monitoring.min_coverage
        return outcome

    def identify(self, ctx: StageContext) -> dict[str, Any]:
        """Partitions, and the bound that decides whether the window is judged."""
        return super().identify(ctx) | {"min_coverage": ctx.model.monitoring.min_coverage}


def _join(ctx: StageContext, day: date, schema: "pa.Schema") -> "pa.Table":
    import pyarrow as pa
    import pyarrow.compute as pc

    entity = ctx.model.features.entity
    window = Window.of(day)
    columns = [entity, "probability", "decision", "model_version"]
    predictions = ctx.table("predictions").read(window, columns).combine_chunks()
    outcomes = ctx.table("outcomes").read(window, [entity, "label"]).combine_chunks()
    # Looking up keeps the order of the predictions, which a hash join does not.
    place = pc.index_in(predictions[entity], value_set=outcomes[entity].cast(predictions[entity].type).combine_chunks())
    label = outcomes["label"].take(place).cast(pa.bool_())
    joined = predictions.append_column("arrived", pc.is_valid(place)).append_column("label", label)
    return joined.select(schema.names).cast(schema)


def _coverage(ctx: StageContext) -> tuple[dict[str, float | None], dict[str, int]]:
    import pyarrow.compute as pc

    table = ctx.table("feedback").read(ctx.window, ["arrived", "label"])
    rows, arrived = table.num_rows, pc.sum(table["arrived"]).as_py() or 0
    labelled = rows - table["label"].null_count
    judgeable = rows - (arrived - labelled)
    coverage = labelled / judgeable if judgeable else None
    counts = {
        "rows": rows,
        "labelled": labelled,
        "arrived_without_label": arrived - labelled,
        "missing": rows - arrived,
    }
    return {"coverage": coverage, **{name: float(count) for name, count in counts.items()}}, counts


def _schema(ctx: StageContext) -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        [
            (ctx.model.features.entity, pa.string()),
            ("probability", pa.float32()),
            ("decision", pa.bool_()),
            ("model_version", pa.int64()),
            ("arrived", pa.bool_()),
            ("label", pa.bool_()),
        ]
    )


STAGE = Feedback()
