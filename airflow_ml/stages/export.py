"""Export: the trained network becomes a SavedModel that takes raw columns, and is proven equal to the network.

The proof is the largest difference of a probability over the *whole* test split; above 1e-5 the export is refused.
The golden requests are rows of that split, with two more made from real rows: one of which every number is missing,
and one of which every category was never seen.
"""

from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.errors import BadTrainingSet
from airflow_ml.lifecycle.preprocessing import Preprocessing
from airflow_ml.spec import Model
from airflow_ml.stages._files import file_of, read_batches, to_numpy
from airflow_ml.stages.base import TRAINING, Outcome, Stage
from airflow_ml.stages.code import load
from airflow_ml.stages.context import StageContext
from airflow_ml.storage import verify

if TYPE_CHECKING:
    from torch import nn

    from airflow_ml.serving.golden import GoldenRequest
    from airflow_ml.stages._files import Array

_BATCH_ROWS = 8192
_GOLDEN_BATCH = 8
_WARMUP = 2
_UNKNOWN = "never seen before"


class Export(Stage):
    """Files ``saved_model`` and ``golden``; metric ``max_abs_diff``."""

    name = "export"
    components = ("torch", "tensorflow-cpu")
    params = TRAINING

    def entry_points(self, model: Model) -> tuple[str, ...]:
        """The builder, where one is declared."""
        return (model.serving.builder,) if model.serving.builder else ()

    def identify(self, ctx: StageContext) -> dict[str, Any]:
        """The network, the rows it is compared on, and how it is converted."""
        return {
            "model": file_of(ctx.upstream("train"), "model").sha256,
            "test": file_of(ctx.upstream("training_set"), "test").sha256,
            "serving": {"builder": ctx.model.serving.builder, "golden_rows": ctx.model.serving.golden_rows},
        }

    def run(self, ctx: StageContext) -> Outcome:
        """Convert, compare, and keep golden requests."""
        with ctx.timed("import engines"):
            from airflow_ml.serving.engines import tensorflow

            tensorflow()  # before torch: together they must be loaded in this order
            from airflow_ml.serving.export import check_parity, export_saved_model, parity
            from airflow_ml.serving.golden import write_golden
            from airflow_ml.training.model_files import PREPROCESSING

        trained, split = file_of(ctx.upstream("train"), "model"), file_of(ctx.upstream("training_set"), "test")
        folder, test = verify(trained.uri, trained.sha256), verify(split.uri, split.sha256)
        preprocessing = Preprocessing.from_json((folder / PREPROCESSING).read_text(encoding="utf-8"))
        if ctx.model.serving.builder:
            load(ctx.model.serving.builder)  # a builder that is not there is refused as any entry point is
        with ctx.timed("golden requests"):
            network = _network(folder)
            golden = _golden(network, preprocessing, test, ctx.model.serving.golden_rows)
            write_golden(ctx.files / "golden.json", golden)
        saved_model = ctx.files / "saved_model"
        with ctx.timed("convert"):
            signature = export_saved_model(
                network, preprocessing, saved_model, builder=ctx.model.serving.builder, warmup=golden[:_WARMUP]
            )
        with ctx.timed("parity"):
            batches = read_batches(test, preprocessing.columns, _BATCH_ROWS)
            found = parity(
                saved_model, network, preprocessing, (to_numpy(batch, preprocessing.columns) for batch in batches)
            )
            check_parity(found, where=f"model {ctx.model.name}")
        return Outcome(
            outputs={
                "saved_model": ctx.pin(saved_model),
                "golden": ctx.pin(ctx.files / "golden.json", "application/json"),
            },
            metrics={"max_abs_diff": found.max_abs_diff},
            summary={
                "signature": signature.input_types,
                "conversion": signature.conversion,
                "parity_rows": found.rows,
                "golden_rows": sum(len(request.probability) for request in golden),
            },
            rows=found.rows,
        )


def _network(folder: Path) -> "nn.Module":
    """The trained network as an ordinary module.

    torch refuses `eval` and `train` on an exported program, because they would not change what it computes. It was
    exported for evaluation, so here they may do what they do to every module, which is to set a flag.
    """
    from torch import nn

    from airflow_ml.training.model_files import load as load_network

    network = load_network(folder)
    for name in ("train", "eval"):
        setattr(network, name, MethodType(getattr(nn.Module, name), network))
    return network


def _golden(network: "nn.Module", preprocessing: Preprocessing, test: Path, rows: int) -> "list[GoldenRequest]":
    import numpy as np

    from airflow_ml.serving.export import torch_probability
    from airflow_ml.serving.golden import golden_requests

    total = _count(test)
    if total == 0:
        raise BadTrainingSet("the test split has no rows", where=str(test), remedy="run the stage training_set again")
    derived = 2 if rows > 2 else 0
    chosen = np.unique(np.linspace(0, total - 1, min(rows - derived, total)).astype(np.int64))
    columns = _take(test, preprocessing, chosen)
    if derived:
        columns = _with_odd_rows(preprocessing, columns)
    return golden_requests(
        preprocessing, columns, torch_probability(network, preprocessing, columns), rows=_GOLDEN_BATCH
    )


def _with_odd_rows(preprocessing: Preprocessing, columns: "dict[str, Array]") -> "dict[str, Array]":
    """Append the first row without its numbers and the last one with categories that nobody has seen."""
    import numpy as np

    odd: dict[str, Array] = {}
    for vocabulary in preprocessing.categorical:
        column = columns[vocabulary.name]
        unknown: Any = _UNKNOWN
        if vocabulary.dtype == "int64":
            unknown = min((int(token) for token in vocabulary.tokens), default=0) - 1
        odd[vocabulary.name] = np.array([*column, column[0], unknown], dtype=column.dtype)
    for scaling in preprocessing.numeric:
        column = columns[scaling.name].astype(np.float32)
        odd[scaling.name] = np.array([*column, np.nan, column[-1]], dtype=np.float32)
    return odd


def _count(folder: Path) -> int:
    import pyarrow.parquet as pq

    return sum(int(pq.read_metadata(path).num_rows) for path in folder.glob("**/*.parquet"))


def _take(folder: Path, preprocessing: Preprocessing, chosen: "Array") -> "dict[str, Array]":
    """Rows by their number in the split, streaming."""
    import numpy as np

    parts: list[dict[str, Array]] = []
    first = 0
    for batch in read_batches(folder, preprocessing.columns, _BATCH_ROWS):
        inside = chosen[(chosen >= first) & (chosen < first + batch.num_rows)] - first
        if len(inside):
            columns = to_numpy(batch, preprocessing.columns)
            parts.append({name: column[inside] for name, column in columns.items()})
        first += batch.num_rows
    return {name: np.concatenate([part[name] for part in parts]) for name in preprocessing.columns}


STAGE = Export()
