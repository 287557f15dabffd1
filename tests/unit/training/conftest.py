"""A small training set, laid out as the stage `training_set` leaves it."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_ml.lifecycle.preprocessing import fit
from airflow_ml.lifecycle.requests import FileOutput, JobRequest, JobResult
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Column, Features, Files, Horovod, Label, Model, Platform, Schema, Tune, at_least
from airflow_ml.storage import sha256
from airflow_ml.training.job import TrainingJob
from airflow_ml.training.launch import launch

CATEGORICAL = ("carrier", "dest")
NUMERIC = ("hour", "wind", "distance")
START = date(2013, 1, 1)
LONG = {"epochs": 4, "batch_size": 32, "dropout": 0.2, "learning_rate": 0.005, "patience": 4, "checkpoint_steps": 40}
"""Parameters of a training of 132 steps an epoch: long enough to be disturbed inside of one."""


def table(rows: int, seed: int = 0) -> pa.Table:
    """Rows whose label depends on hour, carrier and wind, in the order of time."""
    generator = np.random.default_rng(seed)
    carrier = generator.choice(["AA", "B6", "DL", "UA"], rows)
    hour = generator.integers(5, 23, rows).astype(float)
    wind = generator.gamma(2, 5, rows)
    logit = (hour - 14) / 4 + (carrier == "B6") + np.sin(wind) - 1.5
    label = (generator.uniform(size=rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    wind[generator.uniform(size=rows) < 0.05] = np.nan
    days = [START + timedelta(days=int(n)) for n in np.arange(rows) * 60 // rows]
    return pa.table(
        {
            "entity": [f"e{n:06d}" for n in range(rows)],
            "event_time": pa.array(np.array(days, dtype="datetime64[us]")),
            "carrier": carrier,
            "dest": generator.choice([f"D{n:02d}" for n in range(30)], rows),
            "hour": hour,
            "wind": pa.array(wind, from_pandas=True),
            "distance": generator.uniform(100, 3000, rows),
            "origin": generator.choice(["EWR", "JFK", "LGA"], rows),
            "label": label,
            "ds": pa.array(days, pa.date32()),
        }
    )


def write_splits(folder: Path, rows: int = 6000, group_rows: int = 500) -> None:
    """Folders train, validation and test of two Parquet files each, and preprocessing.json."""
    whole = table(rows)
    cuts = [0, int(rows * 0.7), int(rows * 0.85), rows]
    for name, first, last in zip(("train", "validation", "test"), cuts, cuts[1:], strict=False):
        split = whole.slice(first, last - first)
        (folder / name).mkdir(parents=True)
        half = split.num_rows // 2
        pq.write_table(split.slice(0, half), folder / name / "part-00000.parquet", row_group_size=group_rows)
        pq.write_table(split.slice(half), folder / name / "part-00001.parquet", row_group_size=group_rows)
    train = whole.slice(0, cuts[1])
    columns = {name: train.column(name).to_numpy() for name in (*CATEGORICAL, *NUMERIC)}
    (folder / "preprocessing.json").write_text(fit(columns, CATEGORICAL, NUMERIC).to_json())


@pytest.fixture(scope="package")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three splits, shared: nobody writes there."""
    folder = tmp_path_factory.mktemp("training-set")
    write_splits(folder)
    return folder


@pytest.fixture
def job(splits: Path, tmp_path: Path) -> Callable[..., TrainingJob]:
    """Makes a job on the shared splits; its state and model lie in a folder of their own."""

    def make(name: str = "run", workers: int = 1, **changed: Any) -> TrainingJob:
        return training_job(splits, tmp_path / name, workers=workers, **changed)

    return make


def training_job(splits: Path, folder: Path, **changed: Any) -> TrainingJob:
    """A job on the splits; its state and model lie below a folder."""
    params = {"epochs": 2, "batch_size": 256, "hidden": [16], "dropout": 0.0, **changed.pop("params", {})}
    values: dict[str, Any] = {
        "fingerprint": "f" * 64,
        "train": str(splits / "train"),
        "validation": str(splits / "validation"),
        "preprocessing": str(splits / "preprocessing.json"),
        "state": str(folder / "state"),
        "out": str(folder / "model"),
        **changed,
    }
    return TrainingJob(params=params, **values)


@pytest.fixture(scope="package")
def undisturbed(splits: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """A training of two processes that nobody disturbed: what those that were must end with, bit by bit."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = training_job(splits, folder, workers=2, params=LONG)
    told = launch(finished, folder / "work", lambda event: None)
    assert (told["epochs"], told["resumed_from_epoch"]) == (4, 0)
    return finished


def model(tune: Tune | None = None, **training: Any) -> Model:
    """A declaration that fits the splits."""
    columns = tuple(Column(name=name, type="string") for name in ("entity", "origin", "terminal"))
    source = Schema(columns=columns, key="entity")
    return Model(
        name="toy",
        source=Files(path="{ds}.csv", schema=source),
        features=Features(
            build="toy:build", entity="entity", event_time="event_time", categorical=CATEGORICAL, numeric=NUMERIC
        ),
        label=Label(compute="toy:late", source=Files(path="out/{ds}.csv", schema=source)),
        training=Horovod(
            **{
                "params": {"epochs": 3, "batch_size": 128, "hidden": [16], "learning_rate": 0.02},
                "window": 60,
                **training,
            },
        ),
        tune=tune,
        gates=(at_least("roc_auc", 0.5),),
        slices=("carrier", "origin", "hour"),
        start=START,
        declared_in="toy",
    )


def requested(splits: Path, base: Path, stage: str, declared: Model | None = None, **changed: Any) -> JobRequest:
    """A request in a base, whose training set is the splits."""
    window = Window.of(START, START + timedelta(days=59))
    request = JobRequest(
        stage=stage, model=declared or model(), platform=Platform(base=str(base)), window=window, **changed
    )
    path = base / "runs" / "toy" / "training_set" / request.spec_hash[:8] / "result.json"
    names = {"train": "train", "validation": "validation", "test": "test", "preprocessing": "preprocessing.json"}
    result = JobResult(
        stage="training_set",
        model="toy",
        fingerprint="a" * 64,
        spec_hash=request.spec_hash,
        code_version="1",
        window=window,
        outputs={
            name: FileOutput(uri=str(splits / file), sha256=sha256(splits / file)) for name, file in names.items()
        },
        uri=str(path),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(result.model_dump_json())
    return request.model_copy(update={"inputs": {"training_set": str(path), **request.inputs}})


@pytest.fixture(scope="package")
def make_request(splits: Path) -> Callable[..., JobRequest]:
    """Makes a request in a base, whose training set is the shared splits."""

    def make(base: Path, stage: str, declared: Model | None = None, **changed: Any) -> JobRequest:
        return requested(splits, base, stage, declared, **changed)

    return make
