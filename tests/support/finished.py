"""A base in which a training has finished: real files of a real network, without the minutes of Spark and Horovod.

The results are those of the stages before `export`, in the protocol's own form; what is under test reads them as it
would read the real ones.
"""

from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.evaluation import ChampionEvaluation, Evaluation, Metric
from airflow_ml.lifecycle.fingerprints import fingerprint
from airflow_ml.lifecycle.preprocessing import Preprocessing, fit
from airflow_ml.lifecycle.requests import FileOutput, JobRequest, JobResult
from airflow_ml.lifecycle.windows import Window
from airflow_ml.registry import champions
from airflow_ml.spec import Features, Model, Platform, at_least, beats_champion
from airflow_ml.stages.runner import execute, result_folder
from airflow_ml.storage import sha256, write_atomically
from airflow_ml.training import model_files
from airflow_ml.training.network import TabularNetwork
from tests.support.models import small_model

WINDOW = Window.of("2013-01-01", "2013-01-30")
NIGHT = date(2013, 2, 1)
CARRIERS = ("AA", "B6", "UA")


def tabular_model(**changes: Any) -> Model:
    """A declaration with one category and two numbers, whose gates ask no server."""
    features = Features(
        build="small.features:build", entity="id", event_time="at", categorical=("carrier",), numeric=("x", "y")
    )
    gates = (at_least("roc_auc", 0.6), beats_champion("roc_auc", by=-0.01))
    # One entry point that can be imported: a release names the version of the user's code.
    label = small_model().label.model_copy(update={"compute": "tests.unit.data.labels:positive"})
    return small_model(**({"features": features, "label": label, "gates": gates} | changes))


def rows(count: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Raw columns with missing values in each of them."""
    random = np.random.default_rng(seed)
    carrier = random.choice([*CARRIERS, None], count)
    x, y = random.normal(10, 3, count), random.normal(0, 1, count)
    x[random.random(count) < 0.1] = np.nan
    return {"carrier": carrier.astype(object), "x": x, "y": y}


@dataclass
class Finished:
    """A base and the URIs of the results in it."""

    model: Model
    platform: Platform
    inputs: dict[str, str] = field(default_factory=dict)

    def request(self, stage: str, window: Window = WINDOW, **params: Any) -> JobRequest:
        inputs = self.inputs if stage not in ("score", "feedback") else {}
        return JobRequest(
            stage=stage, model=self.model, platform=self.platform, window=window, params=params, inputs=inputs
        )

    def run(self, stage: str, window: Window = WINDOW, **params: Any) -> JobResult:
        """Run a stage in this process; later stages find its result."""
        result = execute(self.request(stage, window, **params))
        self.inputs[stage] = result.uri
        return result

    def table(self, name: str) -> LakeTable:
        return LakeTable(Path(self.platform.base) / "lake" / self.model.name / name)


def finish_training(base: Path, seed: int = 1, **spec: Any) -> Finished:
    """Write the results of training_set and train.

    Args:
        base: The base; several trainings may share it.
        seed: Of the network's weights; each is another training.
        spec: Changes of the declaration, and ``platform`` for fields of the platform.
    """
    platform = Platform(base=str(base), **spec.pop("platform", {}))
    done = Finished(tabular_model(**spec), platform)
    raw = rows(400)
    preprocessing = fit(raw, ("carrier",), ("x", "y"))
    _training_set(done, raw, preprocessing)
    _train(done, preprocessing, seed)
    return done


def finish_evaluation(done: Finished, auc: float | None = 0.8, champion: tuple[int, float] | None = None) -> None:
    """Write the result of evaluate.

    Args:
        done: A finished training.
        auc: What the evaluation says of it.
        champion: Version and AUC of the champion on the same rows.
    """
    name = f"{done.inputs['train']} {auc} {champion}"
    folder = _folder(done, "evaluate", name)
    folder.mkdir(parents=True, exist_ok=True)
    versus = None
    if champion is not None:
        versus = ChampionEvaluation(version=champion[0], metrics={"roc_auc": Metric(value=champion[1], rows=400)})
    found = Evaluation(
        metrics={"roc_auc": Metric(value=auc, rows=400)},
        ece=Metric(value=0.01, rows=400),
        champion=versus,
        rows=400,
        positive_share=0.5,
        threshold=0.5,
    )
    (folder / "evaluation.json").write_text(found.model_dump_json())
    pq.write_table(pa.table({"id": ["t0"], "probability": [0.5]}), folder / "test_predictions.parquet")
    (folder / "evaluation.html").write_text("<p>evaluation</p>")
    outputs = {
        "evaluation": _pin(folder / "evaluation.json"),
        "test_predictions": _pin(folder / "test_predictions.parquet"),
    }
    reports = {"evaluation": _pin(folder / "evaluation.html")}
    write_result(done, "evaluate", name, outputs, metrics={"roc_auc": auc}, reports=reports)


def register(done: Finished, auc: float | None = 0.8) -> int:
    """Evaluate against the champion of now, judge and register; returns the version."""
    now = champions.champion(done.platform, done.model.name)
    finish_evaluation(done, auc, None if now is None else (now.version, 0.7))
    done.run("gates")
    return int(done.run("register").summary["version"])


def crown(done: Finished, version: int) -> None:
    """Make a version the champion without a model server."""
    reigns = champions.history(done.platform, done.model.name)
    release = champions.release_of(done.platform, done.model.name, version)
    champions.promote(done.platform, release, reigns[0].version if reigns else None)


def commit_features(done: Finished, day: date = NIGHT, count: int = 300, seed: int = 7) -> None:
    """A partition of features, as the stage features would commit it."""
    schema = pa.schema([("id", pa.string()), ("at", pa.timestamp("us")), ("carrier", pa.string())])
    for name in ("x", "y"):
        schema = schema.append(pa.field(name, pa.float64()))
    raw = rows(count, seed)
    columns = {"id": [f"{day}-{n}" for n in range(count)], "at": [datetime.combine(day, time())] * count, **raw}
    commit(done.table("features"), day, pa.table(columns, schema=schema), f"features {day} {count} {seed}")


def commit_outcomes(done: Finished, labels: dict[str, bool | None], day: date = NIGHT) -> None:
    """A partition of outcomes."""
    table = pa.table({"id": list(labels), "label": pa.array(labels.values(), pa.bool_())})
    commit(done.table("outcomes"), day, table, f"outcomes {day} {labels}")


def commit(table: LakeTable, day: date, content: pa.Table, made_from: str) -> None:
    attempt = table.attempt()
    pq.write_table(content, attempt.partition(day) / "part.parquet")
    table.commit(attempt, {day: fingerprint(made_from)}, content.schema)


def _training_set(done: Finished, raw: dict[str, np.ndarray], preprocessing: Preprocessing) -> None:
    folder = _folder(done, "training_set", "one")
    (folder / "test").mkdir(parents=True, exist_ok=True)
    count = len(raw["x"])
    table = pa.table({"id": [f"t{n}" for n in range(count)], **raw, "label": np.arange(count) % 2})
    pq.write_table(table, folder / "test" / "part.parquet", row_group_size=150)
    (folder / "preprocessing.json").write_text(preprocessing.to_json())
    (folder / "statistics.json").write_text("{}")
    outputs = {name: _pin(folder / name) for name in ("test", "preprocessing.json", "statistics.json")}
    pins = {"features": {"table": "features", "uri": str(done.table("features").path), "version": 3}}
    write_result(
        done,
        "training_set",
        "one",
        {name.removesuffix(".json"): output for name, output in outputs.items()},
        summary={"pins": pins},
    )


def _train(done: Finished, preprocessing: Preprocessing, seed: int) -> None:
    folder = _folder(done, "train", str(seed))
    if (folder / "model").exists():
        done.inputs["train"] = str(folder.parent / "result.json")
        return
    torch.manual_seed(seed)
    network = TabularNetwork(preprocessing.cardinalities, 2, hidden=(8,), embedding=4, dropout=0.0)
    example = (torch.zeros((3, 1), dtype=torch.int64), torch.zeros((3, 2)))
    source = _folder(done, "training_set", "one") / "preprocessing.json"
    model_files.write(folder / "model", network, example, source, {"epochs": []})
    write_result(done, "train", str(seed), {"model": _pin(folder / "model")})


def _folder(done: Finished, stage: str, name: str) -> Path:
    return result_folder(Path(done.platform.base), done.model.name, stage, fingerprint(name)) / "attempt-1"


def _pin(path: Path) -> FileOutput:
    return FileOutput(uri=str(path), sha256=sha256(path))


def write_result(done: Finished, stage: str, name: str, outputs: dict[str, FileOutput], **more: Any) -> None:
    uri = _folder(done, stage, name).parent / "result.json"
    result = JobResult(
        stage=stage,
        model=done.model.name,
        fingerprint=fingerprint(name),
        spec_hash=done.request(stage).spec_hash,
        code_version="1",
        window=WINDOW,
        outputs=outputs,
        uri=str(uri),
        **more,
    )
    write_atomically(uri, result.model_dump_json())
    done.inputs[stage] = str(uri)


def nights(count: int) -> list[date]:
    """Nights after the training window."""
    return [NIGHT + timedelta(days=n) for n in range(count)]
