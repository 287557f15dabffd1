"""Versions that can be rolled out: small real SavedModels, their records, and a declaration with a quick canary.

Their probability is a sigmoid of the hour, so that what is wrong with one of them is known exactly.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_ml import Canary, Judging, Model, Online, Platform, Serving
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.registry import champions
from airflow_ml.registry.client import client_of
from airflow_ml.serving.golden import GoldenRequest, write_golden
from airflow_ml.stages.rollout import run_until_ended
from airflow_ml.stages.runner import execute
from tests.support.models import small_model
from tests.support.online import NAME, SIGNATURE
from tests.support.online import model as online
from tests.support.released import record

# Of sixty requests one that meets a busy moment of the machine is more than one in a hundred: latency is judged where
# its numbers are given.
JUDGING = Judging(min_requests=60, max_wait_s=20, latency_factor=1000, score_limit=0.5)
CANARY = Canary(shadow=True, steps=(0.1, 0.5), watch_s=1.5, judging=JUDGING)


def canaried(**changes: Any) -> Model:
    """A declaration whose releases go step by step."""
    serving = Serving(online=Online(deadline_ms=8000), canary=CANARY.model_copy(update=changes), probe_timeout_s=30)
    return small_model(features=online.features, serving=serving)


model = canaried()

ROWS: list[dict[str, Any]] = [
    {"id": f"e{n}", "carrier": "AA", "hour": n % 24, "distance": 100.0 + n, "wind": None} for n in range(480)
]


def graded(folder: Path, shift: float = 0.0, nan_from: int = 24, sleep_ms: int = 0) -> Path:
    """Export a version.

    Args:
        folder: To write.
        shift: Of the log-odds.
        nan_from: Hour from which on it answers with what is no number.
        sleep_ms: Before each answer; it costs no processor.
    """
    from airflow_ml.serving.engines import tensorflow

    tf = tensorflow()
    from tensorflow.python.data.experimental.ops.testing import sleep

    types = {"string": tf.string, "int64": tf.int64, "float32": tf.float32}
    specs = {name: tf.TensorSpec([None], types[dtype], name=name) for name, dtype in SIGNATURE.items()}

    def answer(**columns: Any) -> dict[str, Any]:
        hour = tf.cast(columns["hour"], tf.float32)
        found = tf.sigmoid((hour - 12.0) / 4.0 + shift)
        if nan_from < 24:
            found = tf.where(columns["hour"] >= nan_from, tf.zeros_like(found) / 0.0, found)
        if sleep_ms:
            slept = tf.data.Dataset.from_tensors(0.0).apply(sleep(sleep_ms * 1000))
            found += tf.data.experimental.get_single_element(slept)
        return {"probability": found}

    module = tf.Module()
    module.serve = tf.function(answer, input_signature=None).get_concrete_function(**specs)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


def golden(path: Path, shift: float = 0.0) -> Path:
    """Golden requests of such a version, of the morning only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hours = list(range(12))
    inputs = {"carrier": ["AA"] * 12, "hour": hours, "distance": [100.0] * 12, "wind": [None] * 12}
    probability = [1 / (1 + math.exp(-((hour - 12) / 4 + shift))) for hour in hours]
    write_golden(path, [GoldenRequest(inputs=inputs, probability=probability)])
    return path


@dataclass
class Base:
    """A base with a model server and registered versions."""

    model: Model
    platform: Platform

    def request(self, **params: Any) -> JobRequest:
        return JobRequest(stage="rollout", model=self.model, platform=self.platform, params=params)

    def run(self, **params: Any) -> dict[str, Any]:
        """Run the stage once; its summary."""
        return execute(self.request(**params)).summary

    def run_until_ended(self, **params: Any) -> dict[str, Any]:
        """Run the stage as long as its rollout is open; the last summary."""
        return run_until_ended(self.request(**params), lambda line: None).summary

    @property
    def history(self) -> list[int]:
        """Champions, oldest first."""
        return [reign.version for reign in champions.history(self.platform, NAME)[::-1]]

    def served(self) -> tuple[list[int], dict[str, int]]:
        """Versions and labels that the server is told."""
        from airflow_ml.serving.deployment import ModelConfigFile

        config = ModelConfigFile(Path(self.platform.serving_folder))
        return config.versions(NAME), config.labels(NAME)


def register(platform: Platform, saved_models: Mapping[int, Path], shifts: Mapping[int, float]) -> None:
    """Versions with their records, and in MLflow."""
    client = client_of(platform)
    client.create_registered_model(NAME)
    for version, saved_model in saved_models.items():
        client.create_model_version(NAME, str(saved_model))
        path = golden(Path(platform.base) / "made" / str(version) / "golden.json", shifts.get(version, 0.0))
        record(platform, NAME, version, SIGNATURE, saved_model=saved_model, golden=path)


def crown_first(base: Base) -> None:
    """Version 1 rules and is served: what a first release leaves."""
    base.run(version=1, mode="at_once")


def log_requests(platform: Platform, rows: list[dict[str, Any]] | None = None, **columns: Any) -> None:
    """Rows of the prediction log, as the gateway writes them.

    Args:
        platform: Says where the lake is.
        rows: Raw features; all by default.
        columns: Of the table, where they differ from an answer of version 1 in the stable arm.
    """
    import pyarrow as pa

    from airflow_ml.gateway.records import schema_of
    from airflow_ml.lake import LakeTable
    from airflow_ml.lake.appends import append

    now = datetime.now(UTC)
    made = []
    for number, row in enumerate(ROWS if rows is None else rows):
        inputs = json.dumps({name: value for name, value in row.items() if name != "id"})
        made.append(
            {
                "request_id": f"r{number}", "row": 0, "entity": row["id"], "at": now.replace(tzinfo=None),
                "model_version": 1, "label": None, "arm": "stable", "experiment": None,
                "probability": 1 / (1 + math.exp(-(row["hour"] - 12) / 4)), "fallback": None, "error": None,
                "latency_ms": 5.0, "inputs": inputs, "inputs_sha256": "",
            }
            | {name: value(row) if callable(value) else value for name, value in columns.items()}
        )  # fmt: skip
    table = LakeTable(Path(platform.base) / "lake" / NAME / "online")
    number = table.snapshot().version + 1 if table.exists() else 1
    append(table, {now.date(): pa.Table.from_pylist(made, schema_of())}, "a-test", number)
