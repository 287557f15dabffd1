"""A base with real tables and a real release record, filled with rows whose distribution a test chooses."""

from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.fingerprints import fingerprint
from airflow_ml.lifecycle.gates import GateReport
from airflow_ml.lifecycle.releases import Release
from airflow_ml.lifecycle.requests import FileOutput, JobRequest, JobResult
from airflow_ml.lifecycle.windows import Window
from airflow_ml.registry import champions
from airflow_ml.spec import Budget, Features, Model, Monitoring, Platform, Split
from airflow_ml.spec.training import Horovod
from airflow_ml.stages.runner import execute
from airflow_ml.storage import sha256
from tests.support.models import small_model

REFERENCE = Window.of("2013-06-17", "2013-06-30")
WEEK = Window.of("2013-07-01", "2013-07-07")
ROWS = 300


def watched_model(**monitoring) -> Model:
    """Two numbers and a category; everything is judged."""
    policy = {
        "min_roc_auc": 0.6,
        "drifted_share": 0.5,
        "budget": Budget(retrainings=2, period=60),
        "cooldown": 14,
        **monitoring,
    }
    return small_model(
        features=Features(
            build="small.features:build", entity="id", event_time="at", categorical=("carrier",), numeric=("x", "y")
        ),
        training=Horovod(window=60, split=Split(validation=7, test=7)),
        monitoring=Monitoring(**policy),
    )


def rows(days, seed=0, per_day=ROWS, shift=0.0, missing=0.0, carriers=("AA", "BB", "CC"), skill=1.5, rate=0.25):
    """Feature rows with a probability and a label that it ranks well (``skill``) or not at all (0)."""
    rng = np.random.default_rng(seed)
    days = list(days)
    n = len(days) * per_day
    label = (rng.uniform(size=n) < rate).astype(float)
    score = 1 / (1 + np.exp(-(skill * (label - rate) + rng.normal(size=n) - 1)))
    y = rng.normal(shift, 1, n)
    y[rng.uniform(size=n) < missing] = np.nan
    ds = [day for day in days for _ in range(per_day)]
    return pd.DataFrame(
        {
            "id": [f"{day}-{number}" for number, day in enumerate(ds)],
            "ds": ds,
            "carrier": rng.choice(list(carriers), n),
            "x": rng.normal(shift, 1, n),
            "y": y,
            "probability": score,
            "label": label,
        }
    )


@dataclass
class Watch:
    """A base in which windows can be monitored."""

    base: Path
    model: Model = field(default_factory=watched_model)

    @property
    def platform(self) -> Platform:
        return Platform(base=str(self.base))

    def table(self, name: str) -> LakeTable:
        return LakeTable(self.base / "lake" / self.model.name / name)

    def release(self, version: int = 1, frame: pd.DataFrame | None = None) -> Release:
        """A registered version that passed, with its test split."""
        folder = self.base / "made" / str(version)
        (folder / "test_predictions").mkdir(parents=True)
        table = pa.Table.from_pandas(rows(REFERENCE, seed=version) if frame is None else frame, preserve_index=False)
        table = table.set_column(table.schema.get_field_index("label"), "label", table["label"].cast(pa.int8()))
        pq.write_table(table, folder / "test_predictions" / "part-00000.parquet")
        (folder / "model").write_text("a model")
        report = GateReport(
            model=self.model.name,
            verdict="passed",
            gates=(),
            champion=None,
            servability=None,
            evaluation_sha256="e",
            saved_model_sha256=sha256(folder / "model"),
            training_fingerprint=f"training {version}",
        )
        (folder / "report.json").write_text(report.model_dump_json())
        pins = {
            name: FileOutput(uri=str(folder / path), sha256=sha256(folder / path))
            for name, path in {
                "reference": "test_predictions",
                "saved_model": "model",
                "gate_report": "report.json",
            }.items()
        }
        pins |= {"golden": pins["saved_model"], "statistics": pins["saved_model"]}
        release = Release(
            model=self.model.name,
            version=version,
            verdict="passed",
            signature={},
            training_fingerprint=f"training {version}",
            trained_to=REFERENCE.end,
            **pins,
        )
        champions.record(self.platform, release)
        return release

    def commit(self, table: str, frame: pd.DataFrame, days, made_from: str = "") -> None:
        """Replace partitions."""
        target = self.table(table)
        attempt = target.attempt()
        schema = None
        for day in days:
            part = pa.Table.from_pandas(frame[frame["ds"] == day].drop(columns="ds"), preserve_index=False)
            schema = schema or part.schema
            pq.write_table(part.cast(schema), attempt.partition(day) / "part-00000.parquet")
        target.commit(attempt, {day: fingerprint(table, day, made_from) for day in days}, schema.remove_metadata())

    def week(self, frame: pd.DataFrame, version: int = 1, labelled: float = 1.0, made_from: str = "") -> None:
        """Features, predictions, outcomes and feedback of the days in a frame."""
        days = sorted(set(frame["ds"]))
        entity = ["id", "ds"]
        self.commit("features", frame[[*entity, *self.model.features.columns]], days, made_from)
        self.commit("raw", frame[entity], days, made_from)
        scored = frame[entity].assign(
            probability=frame["probability"].astype("float32"),
            decision=frame["probability"] >= 0.5,
            model_version=np.int64(version),
        )
        self.commit("predictions", scored, days, made_from)
        known = np.random.default_rng(1).uniform(size=len(frame)) < labelled
        self.commit("outcomes", frame[entity], days, made_from)
        label = frame["label"].where(known).map({0.0: False, 1.0: True}).astype("boolean")
        self.commit("feedback", scored.assign(arrived=known, label=label), days, made_from)

    def request(self, stage: str, window: Window) -> JobRequest:
        return JobRequest(stage=stage, model=self.model, platform=self.platform, window=window)

    def monitor(self, window: Window = WEEK) -> JobResult:
        return execute(self.request("monitor", window))

    def decide(self, window: Window = WEEK) -> JobResult:
        execute(self.request("monitor", window))
        return execute(self.request("decide", window))


@pytest.fixture
def watch(tmp_path) -> Watch:
    return Watch(tmp_path)


def days_of(start: date, count: int) -> list[date]:
    return [start + timedelta(days=n) for n in range(count)]
