"""Score: a release's SavedModel over feature partitions, streaming by batches, into the table ``predictions``.

A day's partition is decided by the features of the day (their fence), the version, its release and the threshold. A
rerun with the same four finds its partition and writes nothing, so the bytes are the same, ``scored_at`` included:
the clock time at which the partition was made, for people. A rerun under a *new* champion scores the day again and
replaces the partition: that is what clearing a night or ``airflow backfill create --reprocess-behavior completed``
asks for. ``{"version": 3}`` pins a registered version that passed.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.lake import Attempt, LakeTable
from airflow_ml.lifecycle.errors import MissingPartition, NotReleasable, ServingError
from airflow_ml.lifecycle.releases import Release
from airflow_ml.lifecycle.windows import Window
from airflow_ml.registry import champions
from airflow_ml.stages._files import to_numpy, wanted_version
from airflow_ml.stages.base import PartitionStage
from airflow_ml.stages.context import StageContext, log
from airflow_ml.storage import verify

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_ml.serving.scorer import SavedModelScorer

_ROW_GROUP = 65_536


class Score(PartitionStage):
    """Table ``predictions``: entity, probability, decision, model_version, release, scored_at."""

    name = "score"
    components = ("tensorflow-cpu", "pyarrow", "deltalake")
    params = ("version",)

    def table(self, ctx: StageContext) -> LakeTable:
        """``predictions``."""
        return ctx.table("predictions")

    def inputs(self, ctx: StageContext) -> dict[date, Any]:
        """Features, release and threshold of each day.

        Raises:
            NotReleasable: There is no champion, or the pinned version was rejected.
            MissingPartition: Features of a day are not committed.
        """
        release = release_to_score(ctx)
        features = ctx.table("features")
        features.require(
            ctx.window,
            remedy=f"build them first: airflow-ml run features {ctx.model.name} "
            f"--from {ctx.window.start} --to {ctx.window.end}",
        )
        return {
            day: {
                "features": found,
                "version": release.version,
                "release": release.id,
                "threshold": ctx.model.scoring.threshold,
            }
            for day, found in features.fences(ctx.window).items()
        }

    def build(self, ctx: StageContext, days: Sequence[date], attempt: Attempt) -> "tuple[pa.Schema, dict[str, Any]]":
        """Write one file a day."""
        release = release_to_score(ctx)
        features = ctx.table("features")
        pinned = features.snapshot().version
        saved_model = verify(release.saved_model.uri, release.saved_model.sha256)
        with ctx.timed("load model"):
            from airflow_ml.serving.scorer import SavedModelScorer

            scorer = SavedModelScorer(saved_model, ctx.model.scoring.batch_rows)
        rows = 0
        with scorer, ctx.timed("score"):
            for day in days:
                files = [Path(path) for path in features.files(Window.of(day), pinned)]
                rows += _score_day(ctx, scorer, release, files, attempt.partition(day))
                log.info("%s: scored with version %d", day, release.version)
        seconds = ctx.timings["score"]
        facts = {"version": release.version, "release": release.id, "rows_per_s": round(rows / max(seconds, 1e-3))}
        return _schema(ctx), facts


def release_to_score(ctx: StageContext) -> Release:
    """The pinned version, or the champion.

    Raises:
        NotReleasable: There is neither, or it was rejected.
    """
    version = wanted_version(ctx)
    if version is not None:
        release = champions.release_of(ctx.platform, ctx.model.name, version)
        release.require_passed()
        return release
    champion = champions.champion(ctx.platform, ctx.model.name)
    if champion is None:
        raise NotReleasable(
            "there is no champion yet",
            where=f"model {ctx.model.name}",
            remedy=f"train and release one first: trigger {ctx.model.name}_training, "
            "or pin a registered version with {'version': n}",
        )
    return champion


def _score_day(ctx: StageContext, scorer: "SavedModelScorer", release: Release, files: list[Path], folder: Path) -> int:
    """Score the files of one partition into one file; returns its rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(ctx)
    scored_at = datetime.now(UTC).replace(tzinfo=None)
    waiting: list[pa.RecordBatch] = []
    rows = 0
    with pq.ParquetWriter(folder / "part-00000.parquet", schema) as writer:
        for batch in _batches(ctx, scorer.columns, files):
            waiting.append(_score_batch(ctx, scorer, release, batch, schema, scored_at))
            rows += batch.num_rows
            if sum(part.num_rows for part in waiting) >= _ROW_GROUP:
                writer.write_table(pa.Table.from_batches(waiting, schema))
                waiting = []
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting, schema))
    return rows


def _batches(ctx: StageContext, columns: Sequence[str], files: list[Path]) -> "Iterator[pa.RecordBatch]":
    import pyarrow.parquet as pq

    entity = ctx.model.features.entity
    for path in files:
        with pq.ParquetFile(path) as file:
            missing = sorted({entity, *columns} - set(file.schema_arrow.names))
            if missing:
                raise MissingPartition(
                    f"feature columns that the model takes are missing: {', '.join(missing)}",
                    where=str(path),
                    remedy="build the features of this day again with today's declaration, or pin a version that was "
                    "trained without these columns",
                )
            yield from file.iter_batches(batch_size=ctx.model.scoring.batch_rows, columns=[entity, *columns])


def _score_batch(
    ctx: StageContext,
    scorer: "SavedModelScorer",
    release: Release,
    batch: "pa.RecordBatch",
    schema: "pa.Schema",
    scored_at: datetime,
) -> "pa.RecordBatch":
    import numpy as np
    import pyarrow as pa

    probability = scorer.predict(to_numpy(batch, scorer.columns))
    if not np.isfinite(probability).all():
        raise ServingError(
            f"{int((~np.isfinite(probability)).sum())} answers are not numbers",
            where=f"model {ctx.model.name}, version {release.version}",
            remedy="release another version: this one is broken for these rows",
        )
    rows = batch.num_rows
    return pa.record_batch(
        [
            batch.column(ctx.model.features.entity).cast(pa.string()),
            pa.array(probability, pa.float32()),
            pa.array(probability >= ctx.model.scoring.threshold, pa.bool_()),
            pa.repeat(pa.scalar(release.version, pa.int64()), rows),
            pa.repeat(pa.scalar(release.id, pa.string()), rows),
            pa.repeat(pa.scalar(scored_at, pa.timestamp("us")), rows),
        ],
        schema=schema,
    )


def _schema(ctx: StageContext) -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        [
            (ctx.model.features.entity, pa.string()),
            ("probability", pa.float32()),
            ("decision", pa.bool_()),
            ("model_version", pa.int64()),
            ("release", pa.string()),
            ("scored_at", pa.timestamp("us")),
        ]
    )


STAGE = Score()
