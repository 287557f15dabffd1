"""Stage ``training_set``: pinned features joined with the labels known at the window's end, split by time.

Point-in-time means: features of ``ds`` know nothing after its 00:00 (stage ``features``), and labels are the
committed outcomes of the window's days. A training for a window that ends ``to`` therefore runs when the outcomes of
``to`` have landed; outcomes of later days are not read, so that a backfilled training learns from what the live one
would have.

Rows without a label (null: nothing to predict happened) and rows whose outcome never arrived are left out, and counted.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.errors import BadTrainingSet
from airflow_ml.lifecycle.fingerprints import fingerprint
from airflow_ml.lifecycle.requests import FileOutput, TableOutput
from airflow_ml.lifecycle.splits import SPLITS, split_window
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Model
from airflow_ml.stages._statistics import statistics_of
from airflow_ml.stages.base import Outcome, Stage
from airflow_ml.stages.context import StageContext
from airflow_ml.stages.ingest_outcomes import LABEL

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_ROWS = 8192
"""Ranks share a split by row groups: small enough that a few thousand rows feed two ranks evenly."""

FILE_ROWS = 16 * ROW_GROUP_ROWS

_TABLES = ("features", "outcomes", "raw")
_STAGES = {"features": "features", "outcomes": "ingest_outcomes", "raw": "ingest"}


class MakeTrainingSet(Stage):
    """Train, validation and test, with everything that is learnt from train alone."""

    name = "training_set"
    components = ("pyarrow", "deltalake", "numpy")

    def identify(self, ctx: StageContext) -> dict[str, Any]:
        """Fences of every partition, and the parts of the declaration that decide rows and columns."""
        model, window = ctx.model, ctx.window
        fences = {}
        for name in _TABLES:
            table = ctx.table(name)
            table.require(
                window,
                f"run it first: airflow-ml run {_STAGES[name]} {model.name} --from {window.start} --to {window.end}",
            )
            fences[name] = fingerprint(sorted((str(day), fence) for day, fence in table.fences(window).items()))
        return {
            "window": window.model_dump(mode="json"),
            "features": model.features.model_dump(mode="json"),
            "columns": [
                column.model_dump(mode="json", include={"name", "type"}) for column in model.source.schema_.columns
            ],
            "split": model.training.split.model_dump(mode="json"),
            "min_labels": model.training.min_labels,
            "min_count": model.training.min_count,
            "fences": fences,
        }

    def run(self, ctx: StageContext) -> Outcome:
        """Join, split, check, learn, write."""
        from airflow_ml.lifecycle import preprocessing

        model, windows = ctx.model, split_window(ctx.window, ctx.model.training.split)
        pins = {name: ctx.table(name).snapshot().version for name in _TABLES}
        with ctx.timed("join"):
            rows, unlabelled = _labelled(ctx, pins)
        splits = {name: _of(rows, windows[name]) for name in SPLITS}
        _require_usable(splits, windows, model)
        with ctx.timed("write"):
            for name in SPLITS:
                _write(splits[name], ctx.files / name)
        with ctx.timed("learn"):
            train = {name: splits["train"][name].to_numpy() for name in model.features.columns}
            fitted = preprocessing.fit(
                train, model.features.categorical, model.features.numeric, model.training.min_count
            )
            raw = ctx.table("raw").read(windows["train"], version=pins["raw"])
            statistics = statistics_of(raw, model, windows["train"])
        (ctx.files / "preprocessing.json").write_text(fitted.to_json())
        (ctx.files / "statistics.json").write_text(statistics.model_dump_json(indent=2))
        summary = {
            "rows": {name: len(splits[name]) for name in SPLITS},
            "unlabelled": unlabelled,
            "positive_share": {name: round(_positives(splits[name]) / len(splits[name]), 6) for name in SPLITS},
            "days": {name: [str(windows[name].start), str(windows[name].end)] for name in SPLITS},
            "pins": {
                name: {"table": name, "uri": str(ctx.table(name).path), "version": version}
                for name, version in pins.items()
            },
        }
        (ctx.files / "manifest.json").write_text(json.dumps({"model": model.name, **summary}, indent=2))
        outputs: dict[str, TableOutput | FileOutput] = {}
        for name in SPLITS:
            outputs[name] = ctx.pin(ctx.files / name, "application/vnd.apache.parquet")
        for learnt in ("preprocessing", "statistics", "manifest"):
            outputs[learnt] = ctx.pin(ctx.files / f"{learnt}.json", "application/json")
        return Outcome(outputs=outputs, summary=summary, rows=len(rows))


def _labelled(ctx: StageContext, pins: dict[str, int]) -> "tuple[pa.Table, int]":
    """Feature rows of the window that have a label, in order of day, event and entity; and how many have none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    features, window = ctx.model.features, ctx.window
    entity, key = features.entity, ctx.model.label.source.schema_.key
    rows = ctx.table("features").read(window, version=pins["features"])
    labels = (
        ctx.table("outcomes")
        .read(window, ["ds", key, LABEL], version=pins["outcomes"])
        .rename_columns(["ds", entity, LABEL])
    )
    joined = rows.join(labels, keys=["ds", entity], join_type="left outer")
    known = joined.filter(pc.is_valid(joined[LABEL]))
    known = known.set_column(known.schema.get_field_index(LABEL), LABEL, pc.cast(known[LABEL], pa.int8()))
    first = [entity, features.event_time, *features.columns]
    rest = sorted(set(known.column_names) - {*first, LABEL, "ds"})
    ordered = known.sort_by([("ds", "ascending"), (features.event_time, "ascending"), (entity, "ascending")])
    return ordered.select([*first, *rest, LABEL, "ds"]), len(rows) - len(known)


def _of(rows: "pa.Table", window: Window) -> "pa.Table":
    import pyarrow.compute as pc

    return rows.filter((pc.field("ds") >= window.start) & (pc.field("ds") <= window.end))


def _positives(split: "pa.Table") -> int:
    import pyarrow.compute as pc

    return pc.sum(split[LABEL]).as_py() or 0


def _require_usable(splits: "dict[Any, pa.Table]", windows: dict[Any, Window], model: Model) -> None:
    """Raise `BadTrainingSet` for a split that nothing can be learnt from, or that cannot judge."""
    for name, split in splits.items():
        where = f"{name} split, {windows[name]}"
        if not len(split):
            raise BadTrainingSet("no row has a label", where=where, remedy="choose a window whose outcomes have landed")
        minimum = model.training.min_labels if name == "train" else 1
        if len(split) < minimum:
            raise BadTrainingSet(
                f"{len(split)} labelled rows, fewer than training.min_labels={minimum}",
                where=where,
                remedy="choose a longer window, or lower min_labels",
            )
        positives = _positives(split)
        if positives in (0, len(split)):
            raise BadTrainingSet(
                f"all {len(split)} labels are {'positive' if positives else 'negative'}",
                where=where,
                remedy="choose a longer window or split, or look at the label function",
            )


def _write(split: "pa.Table", folder: Path) -> None:
    """Parquet files of several row groups; equal rows give equal bytes."""
    import pyarrow.parquet as pq

    folder.mkdir()
    plain = split.replace_schema_metadata(None).combine_chunks()
    for number, start in enumerate(range(0, len(plain), FILE_ROWS)):
        path = folder / f"part-{number:05d}.parquet"
        pq.write_table(plain.slice(start, FILE_ROWS), path, row_group_size=ROW_GROUP_ROWS)


STAGE = MakeTrainingSet()
