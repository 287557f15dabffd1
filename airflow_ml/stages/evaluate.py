"""Evaluate: the network on the test split, slice by slice, beside the champion on the same rows."""

from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.errors import ServingError, SpecError
from airflow_ml.lifecycle.evaluation import ChampionEvaluation, Evaluation, Metric, Slice
from airflow_ml.lifecycle.preprocessing import Preprocessing
from airflow_ml.lifecycle.releases import Release
from airflow_ml.registry import champions
from airflow_ml.stages._files import file_of, read_batches, to_numpy
from airflow_ml.stages.base import TRAINING, Outcome, Stage
from airflow_ml.stages.context import StageContext, log
from airflow_ml.storage import verify, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pyarrow as pa

    from airflow_ml.training.metrics import Estimate

    Array = np.ndarray[Any, Any]

_BATCH_ROWS = 8192
_LABEL = "label"


class Evaluate(Stage):
    """Files ``evaluation`` and ``test_predictions``; report ``evaluation``."""

    name = "evaluate"
    components = ("torch", "numpy", "matplotlib")
    params = TRAINING

    def identify(self, ctx: StageContext) -> dict[str, Any]:
        """The network, the rows, what is looked at, and the opponent."""
        trained = ctx.upstream("train")
        opponent = champions.challenged(ctx.platform, ctx.model.name, trained.fingerprint)
        return {
            "model": file_of(trained, "model").sha256,
            "test": file_of(ctx.upstream("training_set"), "test").sha256,
            "slices": ctx.model.slices,
            "threshold": ctx.model.scoring.threshold,
            "seed": ctx.model.training.seed,
            "champion": None if opponent is None else opponent.id,
        }

    def run(self, ctx: StageContext) -> Outcome:
        """Score, measure, compare, and draw."""
        trained = ctx.upstream("train")
        split, model = file_of(ctx.upstream("training_set"), "test"), file_of(trained, "model")
        test, folder = verify(split.uri, split.sha256), verify(model.uri, model.sha256)
        opponent = champions.challenged(ctx.platform, ctx.model.name, trained.fingerprint)
        theirs, problem = None, ""
        if opponent is not None:
            with ctx.timed(f"score with champion {opponent.id}"):
                theirs, problem = _champion_scores(opponent, test)
        with ctx.timed("score"):
            table = _score(ctx, folder, test)
        with ctx.timed("measure"):
            evaluation = _measure(ctx, table, opponent, theirs, problem)
        write_atomically(ctx.files / "evaluation.json", evaluation.model_dump_json(indent=1))
        with ctx.timed("report"):
            page = _report(ctx, evaluation, table, theirs)
            write_atomically(ctx.files / "evaluation.html", page)
        values = {name: metric.value for name, metric in evaluation.metrics.items()}
        return Outcome(
            outputs={
                "evaluation": ctx.pin(ctx.files / "evaluation.json", "application/json"),
                "test_predictions": ctx.pin(ctx.files / "test_predictions", "application/vnd.apache.parquet"),
            },
            metrics={**values, **_against(evaluation)},
            reports={"evaluation": ctx.pin(ctx.files / "evaluation.html", "text/html")},
            summary={
                "champion": None if opponent is None else opponent.version,
                "champion_not_comparable": problem or None,
                "positive_share": evaluation.positive_share,
                "slices": len(evaluation.slices),
            },
            rows=evaluation.rows,
        )


def _champion_scores(opponent: Release, test: "Path") -> "tuple[Array | None, str]":
    """The champion's probabilities for the test rows; or None and why there are none."""
    import numpy as np

    # Loads TensorFlow, before torch is loaded: together they must come in this order.
    from airflow_ml.serving.scorer import SavedModelScorer

    saved_model = verify(opponent.saved_model.uri, opponent.saved_model.sha256)
    with SavedModelScorer(saved_model) as scorer:
        missing = [name for name in scorer.columns if name not in _schema(test).names]
        if missing:
            problem = f"champion {opponent.id} reads {', '.join(missing)}, which the test split does not have"
            log.warning("%s: keep the columns in the features for one more release to compare them", problem)
            return None, problem
        try:
            batches = read_batches(test, scorer.columns, _BATCH_ROWS)
            parts = [scorer.predict(to_numpy(batch, scorer.columns)) for batch in batches]
        except ServingError as error:
            log.warning("the champion cannot score the test rows: %s", error)
            return None, str(error)
    return np.concatenate(parts), ""


def _score(ctx: StageContext, folder: "Path", test: "Path") -> "pa.Table":
    """Write ``test_predictions``, a batch at a time; its entity, label, probability and slices are returned."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from airflow_ml.training import model_files

    network = model_files.load(folder)
    preprocessing = Preprocessing.from_json((folder / model_files.PREPROCESSING).read_text(encoding="utf-8"))
    features = ctx.model.features
    wanted = [features.entity, "ds", features.event_time, *ctx.model.slices, *features.columns, _LABEL]
    columns = list(dict.fromkeys(wanted))
    missing = [name for name in columns if name not in _schema(test).names]
    if missing:
        raise SpecError(
            f"the feature table has no column {', '.join(missing)}",
            where=f"model {ctx.model.name}, slices",
            remedy="let features.build return the column, or take it out of `slices`",
        )
    (ctx.files / "test_predictions").mkdir()
    path = ctx.files / "test_predictions" / "part-00000.parquet"
    kept: list[pa.RecordBatch] = []
    writer: pq.ParquetWriter | None = None
    for batch in read_batches(test, columns, _BATCH_ROWS):
        scores = model_files.probabilities(network, preprocessing, to_numpy(batch, preprocessing.columns))
        scored = batch.append_column("probability", pa.array(scores, pa.float32()))
        writer = writer or pq.ParquetWriter(path, scored.schema)
        writer.write_batch(scored)
        kept.append(scored.select([*ctx.model.slices, _LABEL, "probability"]))
    if writer is None:
        raise SpecError("the test split has no rows", where=str(test), remedy="run the stage training_set again")
    writer.close()
    return pa.Table.from_batches(kept)


def _measure(
    ctx: StageContext, table: "pa.Table", opponent: Release | None, theirs: "Array | None", problem: str
) -> Evaluation:
    import numpy as np

    from airflow_ml.training import metrics

    labels = table.column(_LABEL).to_numpy().astype(np.int8)
    scores = table.column("probability").to_numpy()
    threshold, seed = ctx.model.scoring.threshold, ctx.model.training.seed
    found = _metrics(metrics.evaluate(labels, scores, threshold, seed), len(labels))
    slices = []
    for column in ctx.model.slices:
        for value, rows in _groups(table.column(column)):
            estimates = metrics.evaluate(labels[rows], scores[rows], threshold, seed)
            slices.append(Slice(column=column, value=value, rows=len(rows), metrics=_metrics(estimates, len(rows))))
    champion = None
    if opponent is not None:
        if theirs is None:
            # No number at all: a gate that compares stays closed, and shows why.
            same = {name: Metric(value=None, rows=len(labels), reason=problem) for name in found}
        else:
            same = _metrics(metrics.evaluate(labels, theirs, threshold, seed), len(labels))
        champion = ChampionEvaluation(version=opponent.version, metrics=same)
    return Evaluation(
        metrics=found,
        slices=tuple(slices),
        calibration=tuple(metrics.calibration(labels, scores)),
        ece=found["ece"],
        champion=champion,
        rows=len(labels),
        positive_share=float(labels.mean()),
        threshold=threshold,
    )


def _metrics(estimates: "dict[str, Estimate]", rows: int) -> dict[str, Metric]:
    return {
        name: Metric(value=found.value, low=found.low, high=found.high, rows=rows, reason=found.reason)
        for name, found in estimates.items()
    }


def _groups(column: "pa.ChunkedArray") -> "list[tuple[str, Array]]":
    """Values of a column as text, each with its row numbers; the largest group first."""
    import numpy as np

    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    groups = [(_text(encoded.dictionary[int(codes[part[0]])].as_py()), part) for part in parts if len(part)]
    return sorted(groups, key=lambda group: (-len(group[1]), group[0]))


def _text(value: Any) -> str:
    """A slice value as a person writes it; a missing one is empty."""
    if value is None or value != value:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _against(evaluation: Evaluation) -> dict[str, float | None]:
    """The champion's numbers, flat."""
    if evaluation.champion is None:
        return {}
    return {f"champion_{name}": metric.value for name, metric in evaluation.champion.metrics.items()}


def _report(ctx: StageContext, evaluation: Evaluation, table: "pa.Table", theirs: "Array | None") -> str:
    from airflow_ml.training import metrics, plots
    from airflow_ml.training.report import evaluation_page

    labels, scores = table.column(_LABEL).to_numpy(), table.column("probability").to_numpy()
    drawn = []
    mine = metrics.curves(labels, scores)
    if mine is not None:
        other = None if theirs is None else metrics.curves(labels, theirs)
        their_bins = None if theirs is None else metrics.calibration(labels, theirs)
        drawn = [
            ("ROC: the dotted line is chance", plots.roc(mine, other)),
            ("Precision and recall", plots.precision_recall(mine, other, evaluation.positive_share)),
            ("Calibration, bins of about equal size", plots.calibration(evaluation.calibration, their_bins)),
            ("Probabilities given to each class", plots.scores(scores[labels == 0], scores[labels == 1])),
        ]
    about = [
        (
            f"Test split of the training window {ctx.window}: {evaluation.rows:,} rows, "
            f"{evaluation.positive_share:.1%} positive"
        ),
        f"Training {ctx.upstream('train').fingerprint[:12]}",
    ]
    return evaluation_page(evaluation, f"Evaluation of {ctx.model.name}", about, drawn)


def _schema(folder: "Path") -> "pa.Schema":
    import pyarrow.dataset as pads

    return pads.dataset(folder, format="parquet").schema


STAGE = Evaluate()
