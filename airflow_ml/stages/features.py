"""Stage ``features``: the user's build, run by Spark over the raw partitions and the outcomes that were known.

A night is one partition, half a year is one job; both give the same rows, because a day's inputs are its raw
partition and the outcomes of ``[ds - lag - history + 1, ds - lag]``, whatever else the job reads. What the build
returns is checked before it is committed.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.lake import Attempt, LakeTable
from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Column, Features, Model
from airflow_ml.spec.features import RESERVED
from airflow_ml.stages._event_times import strangers
from airflow_ml.stages._spark_errors import told_plainly
from airflow_ml.stages._validated import require_validated
from airflow_ml.stages.base import PartitionStage
from airflow_ml.stages.code import called, load
from airflow_ml.stages.context import StageContext
from airflow_ml.stages.ingest_outcomes import LABEL
from airflow_ml.stages.spark import spark_session

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

_SPARK_TYPES = {"string": "string", "int": "bigint", "float": "double", "bool": "boolean", "timestamp": "timestamp_ntz"}


@dataclass(frozen=True)
class FeatureInputs:
    """What a user's build is given.

    Attributes:
        spark: The session.
        raw: The source's columns and ``ds`` (date): the partitions of `days`.
        outcomes: The outcome columns, ``label`` (nullable boolean) and ``ds``: partitions from ``lag + history_days -
            1`` days before the first of `days` to ``lag`` days before the last. A row of day ``ds`` may only use
            those from ``ds - lag - history_days + 1`` to ``ds - lag``: later ones were not known at its 00:00.
        lag: Days from a partition back to the newest outcomes known.
        history_days: Days of outcomes that a partition may look back on.
        days: Partitions to build, oldest first.
    """

    spark: "SparkSession"
    raw: "DataFrame"
    outcomes: "DataFrame"
    lag: int
    history_days: int
    days: tuple[date, ...]


class BuildFeatures(PartitionStage):
    """Model inputs of each entity."""

    name = "features"
    components = ("pyspark", "pyarrow", "deltalake")

    def entry_points(self, model: Model) -> tuple[str, ...]:
        """The user's build."""
        return (model.features.build,)

    def table(self, ctx: StageContext) -> LakeTable:
        """``features``."""
        return ctx.table("features")

    def inputs(self, ctx: StageContext) -> dict[date, Any]:
        """Fences of the raw partition and of the outcomes known at its 00:00.

        Raises:
            MissingPartition: One of them is not committed: a day that was built without its outcomes would not be the
                day that a rerun builds. Or the raw partition has not passed validation as it is now.
        """
        model = ctx.model
        days = list(ctx.window)
        past = sorted({known for day in days for known in _known(model, day)})
        raw, outcomes = ctx.table("raw"), ctx.table("outcomes")
        raw.require(days, _remedy("ingest", model, days))
        require_validated(ctx, days)
        outcomes.require(past, _remedy("ingest_outcomes", model, past))
        raw_fences, outcome_fences = raw.fences(days), outcomes.fences(past)
        spec = model.features.model_dump(mode="json")
        columns = [[column.name, column.type] for column in (*_columns_of_raw(model), *_columns_of_outcomes(model))]
        return {
            day: [
                spec,
                columns,
                model.label.lag,
                raw_fences[day],
                [outcome_fences[known] for known in _known(model, day)],
            ]
            for day in days
        }

    def build(self, ctx: StageContext, days: Sequence[date], attempt: Attempt) -> "tuple[pa.Schema, dict[str, Any]]":
        """One Spark job for all of these days."""
        model = ctx.model
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        build = load(model.features.build)
        with told_plainly(attempt.folder, model.features.build), ExitStack() as stack:
            with ctx.timed("start Spark"):
                spark = stack.enter_context(spark_session(f"{model.name} features"))
            inputs = FeatureInputs(
                spark=spark,
                raw=_read(spark, ctx.table("raw"), days, _columns_of_raw(model)),
                outcomes=_read(
                    spark,
                    ctx.table("outcomes"),
                    sorted({known for day in days for known in _known(model, day)}),
                    _columns_of_outcomes(model),
                ),
                lag=model.label.lag,
                history_days=model.features.history,
                days=tuple(days),
            )
            with ctx.timed("Spark job"):
                # What Spark raises is explained by `told_plainly`.
                with called(model.features.build, passing=(Py4JError, PySparkException, ConnectionError)):
                    frame = build(inputs)
                _write(frame, model.features, attempt)
        with ctx.timed("check"):
            return _check(attempt, model.features, days), {}


def _known(model: Model, day: date) -> list[date]:
    """Days whose outcomes were known at 00:00 of a day, oldest first."""
    newest = day - timedelta(days=model.label.lag)
    window = Window.ending(newest, model.features.history) if model.features.history else ()
    return [known for known in window if known >= model.start]


def _columns_of_raw(model: Model) -> tuple[Column, ...]:
    return model.source.schema_.columns


def _columns_of_outcomes(model: Model) -> tuple[Column, ...]:
    return (*model.label.source.schema_.columns, Column(name=LABEL, type="bool", nullable=True))


def _read(spark: "SparkSession", table: LakeTable, days: Sequence[date], columns: Iterable[Column]) -> "DataFrame":
    """Declared columns and ``ds`` of the committed files of these days."""
    from pyspark.sql import functions as F

    schema = ", ".join(f"`{column.name}` {_SPARK_TYPES[column.type]}" for column in columns)
    wanted = set(days)
    files = [path for path in table.files(Window.of(days[0], days[-1])) if _day_of(path) in wanted] if days else []
    if not files:
        return spark.createDataFrame([], f"{schema}, ds date")
    # The lake writes a partition's files below `ds=<date>`; Spark's own discovery refuses files of more than one
    # attempt.
    day = F.regexp_extract("_metadata.file_path", r"/ds=(\d{4}-\d{2}-\d{2})/", 1).cast("date")
    return spark.read.schema(schema).parquet(*files).withColumn("ds", day)


def _day_of(path: str) -> date:
    return date.fromisoformat(Path(path).parent.name.removeprefix("ds="))


def _write(frame: "DataFrame", features: Features, attempt: Attempt) -> None:
    """Stage one file a partition, rows in order of event and entity.

    Raises:
        SpecError: A column is missing, or has a name that we use ourselves.
    """
    from pyspark.sql import functions as F

    required = (features.entity, features.event_time, *features.columns, "ds")
    missing = [name for name in required if name not in frame.columns]
    if missing:
        raise SpecError(
            f"the build returns no column {', '.join(missing)}",
            where=f"entry point {features.build}",
            remedy=f"return {', '.join(required)}; got {', '.join(frame.columns)}",
        )
    taken = [name for name in frame.columns if name != "ds" and name.lower() in RESERVED]
    if taken:
        raise SpecError(
            f"the build returns a column {taken[0]!r}, which we add beside the features",
            where=f"entry point {features.build}",
            remedy="return it under another name, or leave it out",
        )
    types = {"ds": "date"} | dict.fromkeys(features.categorical, "string") | dict.fromkeys(features.numeric, "double")
    typed = frame.withColumns({name: F.col(name).cast(type_) for name, type_ in types.items()})
    ordered = typed.repartition(typed.sparkSession.sparkContext.defaultParallelism, "ds").sortWithinPartitions(
        "ds", features.event_time, features.entity
    )
    ordered.write.mode("append").partitionBy("ds").parquet(str(attempt.folder))
    # Hadoop's own files beside the data.
    for extra in (*attempt.folder.rglob(".*.crc"), *attempt.folder.rglob("_SUCCESS")):
        extra.unlink()


def _check(attempt: Attempt, features: Features, days: Sequence[date]) -> "pa.Schema":
    """Hold what the build returned to its contract; returns the schema of the files.

    Raises:
        SpecError: A day is missing or was not asked for, an entity stands twice, a key is null, or an event is of
            another day.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def refuse(what: str, remedy: str) -> SpecError:
        return SpecError(what, where=f"entry point {features.build}", remedy=remedy)

    files: Mapping[date, list[Path]] = {}
    files = {
        day: [path for found, path in attempt.files() if found == day] for day in {day for day, _ in attempt.files()}
    }
    strange = sorted(set(files) - set(days))
    if strange:
        raise refuse(f"the build returns days that were not asked for: {_listed(strange)}", "take `ds` from inputs.raw")
    absent = sorted(set(days) - set(files))
    if absent:
        raise refuse(f"the build returns no row for {_listed(absent)}", "return one row for each entity of inputs.raw")
    for day in days:
        keys = pq.ParquetDataset(files[day], partitioning=None).read([features.entity, features.event_time])
        for name in keys.column_names:
            if keys[name].null_count:
                raise refuse(
                    f"{name} is null in {keys[name].null_count} rows of {day}",
                    "every row needs its entity and event time",
                )
        try:
            times = keys[features.event_time].cast(pa.timestamp("us"))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            type_ = keys[features.event_time].type
            raise refuse(f"{features.event_time} is {type_}, not a time", "return it as a timestamp") from None
        other = [at for _, at in strangers(times, day)]
        if other:
            shown = f"{features.event_time} of {len(other)} rows of {day} is of another day, as {other[0]}"
            raise refuse(shown, "look for a wrong year or a wrong `ds`: the events of a partition are of its day")
        if len(keys[features.entity].unique()) != len(keys):
            twice = len(keys) - len(keys[features.entity].unique())
            raise refuse(f"{twice} rows of {day} repeat an entity", "look for a join whose right side has a key twice")
    return pq.read_schema(files[days[0]][0]).remove_metadata()


def _listed(days: Sequence[date]) -> str:
    return ", ".join(map(str, days[:5])) + (f" and {len(days) - 5} more" if len(days) > 5 else "")


def _remedy(stage: str, model: Model, days: Sequence[date]) -> str:
    return f"run it first: airflow-ml run {stage} {model.name} --from {days[0]} --to {days[-1]}" if days else ""


STAGE = BuildFeatures()
