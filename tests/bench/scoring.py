"""Scoring: the stage ``score``, from a features table to committed predictions, against a bare TensorFlow forward pass.

Both read the same Parquet in batches of the same size and run the same SavedModel, each in a process of its own. The
bare pass is what a script would do: `tf.saved_model.load`, one call of the signature a batch, answers thrown away. The
stage also checks the answers, writes Parquet, and commits. Rows are those of one real night, repeated under new ids.

The network has the flights' inputs and the default size; it is not trained, because weights do not change the cost.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from airflow_ml.examples.flights.model import flights
from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.gates import GateReport
from airflow_ml.lifecycle.releases import Release
from airflow_ml.lifecycle.requests import FileOutput
from airflow_ml.lifecycle.windows import Window
from airflow_ml.registry import champions
from airflow_ml.spec import Platform
from airflow_ml.storage import sha256
from tests.bench.base import NIGHT, export_untrained, features_of, fresh_base, prepared, run_stage
from tests.bench.report import Cell, Report, Table, median, peak_rss_mib

FACTORS = (1, 10, 100)
TURNS = 3
DAY = NIGHT.start


def run() -> Report:
    """Every factor, the stage and the bare pass in turn."""
    source = prepared()
    found: dict[int, dict[str, list[dict[str, float]]]] = {}
    with fresh_base(tables=()) as root:
        month = features_of(source, Window.ending(DAY, 31), flights.features.columns)
        columns = {name: month[name].to_numpy() for name in flights.features.columns}
        saved_model = export_untrained(columns, root / "saved_model")
        for factor in FACTORS:
            base = root / f"x{factor}"
            rows = _write_features(source, base, factor)
            _record_release(base, saved_model)
            found[factor] = {"stage": [], "bare": []}
            for _ in range(TURNS):
                found[factor]["stage"].append(_child("score_stage", base, saved_model))
                found[factor]["bare"].append(_child("bare_forward", base, saved_model))
            print(f"  {rows:,} rows: measured", flush=True)
    cells: list[tuple[Cell, ...]] = []
    details: dict[str, Any] = {}
    for factor, kinds in found.items():
        stage, bare = (_summary(kinds[kind]) for kind in ("stage", "bare"))
        ratio, whole = stage["rows_per_s"] / bare["rows_per_s"], bare["process_s"] / stage["process_s"]
        rss = (stage["rss_mib"], bare["rss_mib"])
        cells.append((f"{factor}×", int(stage["rows"]), stage["rows_per_s"], bare["rows_per_s"], ratio, whole, *rss))
        details[f"x{factor}"] = {"stage": stage, "bare": bare, "ratio": ratio, "process_ratio": whole, "turns": kinds}
    details["rss_growth_mib"] = details[f"x{FACTORS[-1]}"]["stage"]["rss_mib"] - details["x1"]["stage"]["rss_mib"]
    table = Table(
        "Scoring: the stage against a bare forward pass over the same Parquet (goal: ratio ≥ 0.7, memory flat)",
        ("night", "rows", "stage rows/s", "bare rows/s", "ratio", "ratio of processes", "stage MiB", "bare MiB"),
        tuple(cells),
    )
    notes = (
        f"median of {TURNS} turns, each in a process of its own; MiB is the peak of the resident set",
        "rows/s from the first read to the last answer, for the stage to the commit; the model is loaded",
        "ratio of processes: the same with imports, loading the model and looking up the release",
    )
    return Report("scoring", (table,), notes, details)


def _summary(turns: list[dict[str, float]]) -> dict[str, float]:
    return {key: median([turn[key] for turn in turns]) for key in turns[0]}


def _write_features(source: Path, base: Path, factor: int) -> int:
    """Commit one night ``factor`` times over; returns its rows."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    entity = flights.features.entity
    night = LakeTable(source / "lake" / flights.name / "features").read(NIGHT).drop_columns(["ds"])
    at = night.column_names.index(entity)
    table = LakeTable(base / "lake" / flights.name / "features")
    attempt = table.attempt()
    copies = []
    for copy in range(factor):
        ids = pc.binary_join_element_wise(night[entity], pa.scalar(str(copy)), "-")
        copies.append(night.set_column(at, night.schema.field(entity), ids))
    # One row group, as Spark writes one: up to 128 MB.
    pq.write_table(pa.concat_tables(copies), attempt.partition(DAY) / "part-00000.parquet", row_group_size=1 << 20)
    table.commit(attempt, {DAY: f"{factor:064x}"}, night.schema)
    return int(night.num_rows) * factor


def _record_release(base: Path, saved_model: Path) -> None:
    """Version 1: what the stage score asks for before it loads a model."""
    bound = {"saved_model_sha256": sha256(saved_model), "training_fingerprint": "bench"}
    report = GateReport(
        model=flights.name,
        verdict="passed",
        gates=(),
        champion=None,
        servability=None,
        evaluation_sha256="bench",
        **bound,
    )
    path = base / "gate_report.json"
    path.write_text(report.model_dump_json())
    judged = FileOutput(uri=str(path), sha256=sha256(path))
    release = Release(
        model=flights.name,
        version=1,
        verdict="passed",
        saved_model=FileOutput(uri=str(saved_model), sha256=bound["saved_model_sha256"]),
        gate_report=judged,
        golden=judged,
        reference=judged,
        statistics=judged,
        signature={},
        training_fingerprint="bench",
    )
    champions.record(Platform(base=str(base)), release)


def _child(function: str, base: Path, saved_model: Path) -> dict[str, float]:
    """Call a function of this module in a fresh interpreter, from which its answer comes as the last line."""
    code = f"from tests.bench.scoring import {function}; {function}({str(base)!r}, {str(saved_model)!r})"
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer | {"process_s": time.perf_counter() - began}


def score_stage(base: str, _saved_model: str) -> None:
    """The stage as Airflow runs it; its predictions are removed before, so that it has something to do."""
    import shutil

    shutil.rmtree(Path(base) / "lake" / flights.name / "predictions", ignore_errors=True)
    shutil.rmtree(Path(base) / "runs", ignore_errors=True)
    result = run_stage("score", Path(base), NIGHT, version=1)
    seconds = result.timings["score"] + result.timings["commit"]
    _answer(result.rows, seconds, load_s=result.timings["load model"], commit_s=result.timings["commit"])


def bare_forward(base: str, saved_model: str) -> None:
    """What a script would do."""
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    import tensorflow as tf

    began = time.perf_counter()
    forward = tf.saved_model.load(saved_model).signatures["serving_default"]
    load_s = time.perf_counter() - began
    files = LakeTable(Path(base) / "lake" / flights.name / "features").files(NIGHT)
    text = set(flights.features.categorical)
    rows, began = 0, time.perf_counter()
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(
            flights.scoring.batch_rows, columns=list(flights.features.columns)
        ):
            columns: dict[str, Any] = {}
            for name in batch.schema.names:
                column = batch.column(name)
                values = pc.fill_null(column, "") if name in text else column
                kind = tf.string if name in text else tf.float32
                columns[name] = tf.constant(values.to_numpy(zero_copy_only=False), kind)
            rows += len(forward(**columns)["probability"].numpy())
    _answer(rows, time.perf_counter() - began, load_s=load_s, commit_s=0.0)


def _answer(rows: int, seconds: float, **more: float) -> None:
    print(json.dumps({"rows": rows, "rows_per_s": rows / seconds, "s": seconds, "rss_mib": peak_rss_mib(), **more}))
