"""Monitor: what a window showed, against the reference that its release was tested on.

The window is the request's; a request of one day means the `Monitoring.window` days that end there. The version that is
judged is the one that made the predictions of the newest day, and its release's test split is the reference. Columns
are looked at over the whole window; predictions, labels and performance over the rows of that version.

Everything is pinned by the fences of the window's partitions. Labels that arrive later change those of ``feedback``, so
a rerun then judges again.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.lake.table import between
from airflow_ml.lifecycle.observations import Observation
from airflow_ml.lifecycle.releases import Release
from airflow_ml.lifecycle.windows import Window
from airflow_ml.monitoring.columns import watched
from airflow_ml.monitoring.judge import Judgement, Side, judge
from airflow_ml.monitoring.pages import with_header
from airflow_ml.monitoring.samples import draw
from airflow_ml.registry import champions
from airflow_ml.stages._skew import broken_days
from airflow_ml.stages.base import Outcome, Stage
from airflow_ml.stages.context import StageContext
from airflow_ml.storage import verify

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.dataset as pads

_TABLES = ("features", "predictions", "feedback")
_JUDGED_ON = {
    "data_drift": "columns, on the sample that this page saw; the share over all watched columns",
    "prediction_drift": "probabilities, on the sample that this page saw",
    "target_drift": "labels, on every labelled row",
    "performance": "ROC AUC, on every labelled row",
}


class Monitor(Stage):
    """Files ``monitoring`` and ``tests``; reports ``drift`` and ``performance``."""

    name = "monitor"
    components = ("evidently", "pandas", "scikit-learn", "scipy")

    def identify(self, ctx: StageContext) -> dict[str, Any]:
        """Partitions of the window, the policy, and what validation said.

        Raises:
            MissingPartition: The window's last day was not scored, and its input is not why.
        """
        model, window = ctx.model, monitored(ctx)
        if not broken_days(ctx, Window.of(window.end)):
            ctx.table("predictions").require(
                Window.of(window.end),
                remedy=f"score first: airflow-ml run score {model.name} --from {window.end} --to {window.end}",
            )
        policy = model.monitoring.model_dump(
            mode="json", exclude={"cooldown", "budget", "on_prediction_drift", "on_target_drift"}
        )
        return {
            "window": str(window),
            "policy": policy,
            "columns": [[column.name, column.kind] for column in watched(model)],
            "seed": model.training.seed,
            "fences": {name: _fences(ctx, name, window) for name in _TABLES},
            "labelled_until": str(labelled_until(ctx, window.end)),
            "broken": list(broken_days(ctx, window)),
        }

    def run(self, ctx: StageContext) -> Outcome:
        """Read, judge, write."""
        model, window = ctx.model, monitored(ctx)
        with ctx.timed("read"):
            seen, scored, release = _scored(ctx, window)
        judgement = Judgement(seen)
        if release is None or seen.rows < model.monitoring.min_rows:
            note = (
                f"{seen.rows} predictions in {window}; {model.monitoring.min_rows} are declared as the least to judge"
            )
            judgement = Judgement(seen.model_copy(update={"notes": (*seen.notes, note)}))
        else:
            with ctx.timed("sample"):
                current = Side(_sample_window(ctx, window, scored), scored)
                reference, days = _reference(ctx, release)
            with ctx.timed("import evidently"):
                import evidently  # noqa: F401 - seconds, measured apart from the work
            with ctx.timed("judge"):
                judgement = judge(seen.model_copy(update={"reference": days}), current, reference, model)
        return _outcome(ctx, judgement)


def monitored(ctx: StageContext) -> Window:
    """The days that a request asks about: its window, or for one day those that end there."""
    window = ctx.window
    if len(window) > 1:
        return window
    ending = Window.ending(window.end, ctx.model.monitoring.window)
    return Window.of(max(ending.start, min(ctx.model.start, window.end)), window.end)


def labelled_until(ctx: StageContext, end: date) -> date | None:
    """The newest day up to ``end`` whose outcomes are committed; those of later days were not known then."""
    outcomes = ctx.table("outcomes")
    days = Window.of(min(max(ctx.model.start, end - timedelta(days=ctx.model.training.window)), end), end)
    return max((day for day, found in outcomes.fences(days).items() if found is not None), default=None)


def _fences(ctx: StageContext, table: str, window: Window) -> list[int | None]:
    return list(ctx.table(table).fences(window).values())


def _scored(ctx: StageContext, window: Window) -> "tuple[Observation, pd.DataFrame, Release | None]":
    """Predictions of the judged version with their labels, and everything that is known without a report."""
    model = ctx.model
    entity = model.features.entity
    predictions = _read(ctx, "predictions", window, [entity, "ds", "probability", "model_version"])
    seen = Observation(
        model=model.name,
        window=window,
        broken=tuple(broken_days(ctx, window)),
        labelled_until=labelled_until(ctx, window.end),
    )
    if predictions.empty:
        return seen, predictions.assign(label=None), None
    newest = predictions[predictions["ds"] == predictions["ds"].max()]
    version = int(newest["model_version"].max())
    release = champions.release_of(ctx.platform, model.name, version)
    own = predictions[predictions["model_version"] == version]
    notes = (
        [f"{len(predictions) - len(own)} predictions of other versions are left out"]
        if len(own) < len(predictions)
        else []
    )
    absent = [day for day, found in ctx.table("predictions").fences(window).items() if found is None]
    if absent:
        notes.append(f"not scored: {', '.join(map(str, absent))}")
    feedback = _read(ctx, "feedback", window, [entity, "ds", "model_version", "arrived", "label"])
    known = feedback[feedback["model_version"] == version].drop(columns="model_version")
    scored = own.drop(columns="model_version").merge(known, on=["ds", entity], how="left", validate="one_to_one")
    lost = int(scored["probability"].isna().sum())
    labelled = int(scored["label"].notna().sum())
    # Cancelled flights have an outcome and no label: they are not lost.
    unlabelable = int((scored["arrived"].eq(True) & scored["label"].isna()).sum())
    judgeable = len(scored) - unlabelable
    return (
        seen.model_copy(
            update={
                "model_version": version,
                "release": release.id,
                "rows": len(scored),
                "labelled": labelled,
                "coverage": round(labelled / judgeable, 6) if judgeable else 0.0,
                "broken": (*seen.broken, *([f"{lost} predictions are not a number"] if lost else [])),
                "notes": tuple(notes),
            }
        ),
        scored.assign(probability=scored["probability"].astype(float), label=scored["label"].astype(float)),
        release,
    )


def _read(ctx: StageContext, table: str, window: Window, columns: Sequence[str]) -> "pd.DataFrame":
    import pandas as pd

    source = ctx.table(table)
    if not source.exists():
        return pd.DataFrame(columns=list(columns))
    frame: pd.DataFrame = source.read(window, columns).to_pandas()
    return frame


def _sample_window(ctx: StageContext, window: Window, scored: "pd.DataFrame") -> Any:
    """Sampled feature rows of the window, with the probability of those that this version scored."""
    model = ctx.model
    keys = ("ds", model.features.entity)
    sample = _draw(ctx, ctx.table("features").dataset(), window, [c.name for c in watched(model)])
    frame = sample.frame.astype({model.features.entity: str}).merge(
        scored[[*keys, "probability"]], on=list(keys), how="left"
    )
    return type(sample)(frame, sample.of)


def _reference(ctx: StageContext, release: Release) -> tuple[Side, Window]:
    """The release's test split, and its days."""
    import pyarrow.dataset as pads

    path = verify(release.reference.uri, release.reference.sha256)
    dataset = pads.dataset(str(path), format="parquet")
    scored: pd.DataFrame = dataset.to_table(columns=["ds", "probability", "label"]).to_pandas()
    sample = _draw(ctx, dataset, None, [*(c.name for c in watched(ctx.model)), "probability"])
    days = Window.of(scored["ds"].min(), scored["ds"].max())
    return Side(sample, scored.astype({"probability": float, "label": float})), days


def _draw(ctx: StageContext, dataset: "pads.Dataset", window: Window | None, columns: Sequence[str]) -> Any:
    model = ctx.model
    chosen = None if window is None else between(window)

    def scan(names: Sequence[str]) -> "Iterable[pa.RecordBatch]":
        return dataset.to_batches(columns=list(names), filter=chosen)  # type: ignore[no-any-return]

    keys = ["ds", model.features.entity]
    return draw(scan, keys, columns, model.monitoring.sample_rows, model.training.seed)


def _outcome(ctx: StageContext, judgement: Judgement) -> Outcome:
    seen = judgement.observation
    files = {
        "monitoring": _write(ctx, "monitoring.json", seen.model_dump_json(indent=2)),
        "tests": _write(
            ctx,
            "tests.json",
            json.dumps({"drift": judgement.drift.tests, "performance": judgement.performance.tests}, indent=2),
        ),
    }
    title = f"{ctx.model.name}: drift, {seen.window}"
    pages = {"drift": with_header(judgement.drift.html, title, seen, _JUDGED_ON)}
    if judgement.performance.html:
        pages["performance"] = with_header(
            judgement.performance.html, f"{ctx.model.name}: performance, {seen.window}", seen, _JUDGED_ON
        )
    return Outcome(
        outputs={name: ctx.pin(path, "application/json") for name, path in files.items()},
        reports={name: ctx.pin(_write(ctx, f"{name}.html", page), "text/html") for name, page in pages.items()},
        metrics={
            "drifted_share": seen.drifted_share,
            "roc_auc": seen.roc_auc,
            "log_loss": judgement.performance.value("LogLoss"),
            "coverage": seen.coverage,
            "positive_rate": seen.positive_rate,
            "prediction_mean": seen.prediction_mean,
            "rows": float(seen.rows),
            "labelled": float(seen.labelled),
        },
        summary={
            "window": seen.window.model_dump(mode="json"),
            "model_version": seen.model_version,
            "release": seen.release,
            "data_drift": seen.data_drift,
            "prediction_drift": seen.prediction_drift,
            "target_drift": seen.target_drift,
            "performance": seen.performance,
            "drifted_columns": list(seen.drifted_columns),
            "sampled": {side: list(numbers) for side, numbers in seen.sampled.items()},
            "broken": list(seen.broken),
            "notes": list(seen.notes),
        },
        rows=seen.rows,
    )


def _write(ctx: StageContext, name: str, text: str) -> Path:
    path = ctx.files / name
    path.write_text(text, encoding="utf-8")
    return path


STAGE = Monitor()
