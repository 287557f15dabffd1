"""Stage ``validate``: raw partitions against the declared schema and against what the champion was trained on.

Anomalies of severity ``warn`` are told; one of severity ``fail`` means that the data broke, not the world: the stage
raises `DataBroken`, features are not built from the partition (`_validated`), and nobody retrains on it. Either way the
anomalies are a page that a person can open: of a broken window it lies in the folder that all attempts share, and the
error carries it, as there is no result.
"""

import json
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.anomalies import Anomalies
from airflow_ml.lifecycle.errors import DataBroken
from airflow_ml.lifecycle.requests import FileOutput, JobResult
from airflow_ml.lifecycle.statistics import Statistics
from airflow_ml.lifecycle.windows import Window
from airflow_ml.registry import champions
from airflow_ml.spec.source import Categories
from airflow_ml.stages._anomaly_page import anomaly_page
from airflow_ml.stages._event_times import delivered_event_time
from airflow_ml.stages._landing import NEW_COLUMNS
from airflow_ml.stages._validated import not_validated, record
from airflow_ml.stages.base import Outcome, Stage
from airflow_ml.stages.context import StageContext
from airflow_ml.storage import sha256, verify, write_atomically

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

MIN_TRAILING = 3
"""A day with fewer committed days before it is not judged by its volume."""

_SHOWN = 3


class Validate(Stage):
    """Files ``anomalies``; report ``anomalies``."""

    name = "validate"
    components = ("pandera", "polars", "deltalake")

    def identify(self, ctx: StageContext) -> dict[str, Any]:
        """The partitions, those before them whose volume they are compared with, the schema, and whose statistics."""
        schema, window, raw = ctx.model.source.schema_, ctx.window, ctx.table("raw")
        dates = f"--from {window.start} --to {window.end}"
        raw.require(window, f"run it first: airflow-ml run ingest {ctx.model.name} {dates}")
        champion = champions.champion(ctx.platform, ctx.model.name)
        return {
            "window": window.model_dump(mode="json"),
            "schema": schema.model_dump(mode="json"),
            "event_time": delivered_event_time(ctx.model),
            "partitions": {str(day): fence for day, fence in raw.fences(_with_trailing(ctx)).items()},
            "statistics": champion.statistics.sha256 if champion else None,
        }

    def still_true(self, ctx: StageContext, result: JobResult) -> bool:
        """The days still count as validated: not so when another validation refused one of them."""
        return not not_validated(ctx, list(ctx.window))

    def run(self, ctx: StageContext) -> Outcome:
        """Check, tell, and refuse what is broken.

        Raises:
            DataBroken: With the worst anomalies and the page of all.
        """
        found = self._anomalies(ctx)
        self.require_settled(ctx)
        days = {day: ctx.identity["partitions"][str(day)] for day in ctx.window}
        failed = sorted({date.fromisoformat(anomaly.day) for anomaly in found.failures})
        refused = {day: _worst_of(found, day) for day in failed}
        # A window with a broken day is refused as a whole: of its other days nothing is said.
        record(ctx, {day: days[day] for day in failed} if failed else days, refused)
        # Of what is refused there is no result: the page lies where every attempt of this request finds and replaces
        # it.
        folder = ctx.state if found.verdict == "broken" else ctx.files
        page, data = folder / "anomalies.html", folder / "anomalies.json"
        write_atomically(page, anomaly_page(found))
        write_atomically(data, found.model_dump_json(indent=2))
        report = FileOutput(uri=str(page), sha256=sha256(page), media_type="text/html")
        if found.verdict == "broken":
            raise _broken(found, report)
        return Outcome(
            outputs={"anomalies": ctx.pin(data, "application/json")},
            reports={"anomalies": report},
            metrics={"anomalies": float(len(found.anomalies))},
            summary={
                "verdict": found.verdict,
                "anomalies": [str(anomaly) for anomaly in found.anomalies],
                "unjudged": list(found.unjudged),
            },
            rows=found.rows,
        )

    def _anomalies(self, ctx: StageContext) -> Anomalies:
        from airflow_ml.stages import _checks

        schema = ctx.model.source.schema_
        known, compared_with = _known(ctx)
        with ctx.timed("columns"):
            files, new = _files(ctx)
            anomalies = _checks.check_columns(files, schema)
            for day, names in new.items():
                anomalies += _checks.undeclared(day, names, schema.new_columns)
        # The values of a column that is not there, or of another type, say nothing.
        skewed = {anomaly.day for anomaly in anomalies if anomaly.kind in ("missing_column", "type")}
        unjudged = [f"values of {day}: its columns are not the declared ones" for day in sorted(skewed)]
        sound = [day for day in files if str(day) not in skewed]
        if sound:
            with ctx.timed("values"):
                rows = _rows(ctx, sound)
                trailing, unknown = _trailing(ctx, sound)
                anomalies += _checks.check_values(rows, schema)
                event_time = delivered_event_time(ctx.model)
                if event_time is not None:
                    anomalies += _checks.check_event_times(rows, event_time)
                anomalies += _checks.check_profiles(rows, schema, trailing, known)
                unjudged += unknown
        for column in schema.columns:
            for check in column.checks:
                if isinstance(check, Categories) and _checks.seen_categories(column.name, check, known) is None:
                    reason = "it was not in the champion's training set" if known else "there is no champion yet"
                    unjudged.append(f"categories of {column.name!r}: {reason}")
        return Anomalies(
            model=ctx.model.name,
            window=(str(ctx.window.start), str(ctx.window.end)),
            rows=sum(ctx.table("raw").snapshot().rows.get(day, 0) for day in ctx.window),
            compared_with=compared_with,
            anomalies=tuple(sorted(anomalies, key=lambda anomaly: (anomaly.day, anomaly.column or "", anomaly.kind))),
            unjudged=tuple(unjudged),
        )


def _known(ctx: StageContext) -> tuple[Statistics | None, str]:
    """Statistics of the champion's training set, and how a person calls them."""
    champion = champions.champion(ctx.platform, ctx.model.name)
    if champion is None:
        return None, "the declared schema; there is no champion yet, whose training set could tell more"
    pinned = champion.statistics
    statistics = Statistics.model_validate_json(verify(pinned.uri, pinned.sha256).read_text(encoding="utf-8"))
    return (
        statistics,
        f"the declared schema and what version {champion.version} was trained on, {' to '.join(statistics.days)}",
    )


def _files(ctx: StageContext) -> "tuple[dict[date, pa.Schema], dict[date, list[str]]]":
    """Columns of each day's files, and what their landing files had beyond the declared ones."""
    import pyarrow.parquet as pq

    schemas: dict[date, pa.Schema] = {}
    new: dict[date, list[str]] = {}
    for path in ctx.table("raw").files(ctx.window):
        day = date.fromisoformat(Path(path).parent.name.removeprefix("ds="))
        schema = pq.read_schema(path)
        if NEW_COLUMNS in (schema.metadata or {}):
            new[day] = json.loads(schema.metadata[NEW_COLUMNS])
        schemas[day] = schema.remove_metadata()
    return schemas, new


def _rows(ctx: StageContext, days: Sequence[date]) -> "pl.DataFrame":
    import polars as pl
    import pyarrow.dataset as pads

    columns = ["ds", *ctx.model.source.schema_.names]
    table = ctx.table("raw").dataset().to_table(columns=columns, filter=pads.field("ds").isin(list(days)))
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _with_trailing(ctx: StageContext) -> Window:
    """The window, and the days before it that its volume is compared with."""
    volume = ctx.model.source.schema_.volume
    return Window.of(ctx.window.start - timedelta(days=volume.trailing if volume else 0), ctx.window.end)


def _trailing(ctx: StageContext, days: Sequence[date]) -> tuple[dict[date, float], list[str]]:
    """Mean rows of the committed partitions before each day, and which days have too few of them."""
    volume = ctx.model.source.schema_.volume
    if volume is None or not volume.trailing:
        return {}, []
    rows = ctx.table("raw").snapshot().rows
    means: dict[date, float] = {}
    few: list[date] = []
    for day in days:
        before = [rows[past] for past in Window.ending(day - timedelta(days=1), volume.trailing) if past in rows]
        if len(before) < MIN_TRAILING:
            few.append(day)
        else:
            means[day] = sum(before) / len(before)
    return means, [f"volume of {day}: fewer than {MIN_TRAILING} of the days before are committed" for day in few]


def _worst_of(found: Anomalies, day: date) -> str:
    """Why a day is refused, in one line."""
    failures = [anomaly for anomaly in found.failures if anomaly.day == str(day)]
    return f"{failures[0]}" + (f", and {len(failures) - 1} more" if len(failures) > 1 else "")


def _broken(found: Anomalies, report: FileOutput) -> DataBroken:
    failures = found.failures
    worst = "; ".join(str(anomaly) for anomaly in failures[:_SHOWN])
    more = f"; and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
    return DataBroken(
        f"the data is broken: {worst}{more}",
        where=f"raw partitions {' to '.join(dict.fromkeys(found.window))} of {found.model}",
        remedy=f"read {report.uri}; have the upstream deliver again, or change the schema, if the world did change",
        reports={"anomalies": report.model_dump(mode="json")},
    )


STAGE = Validate()
