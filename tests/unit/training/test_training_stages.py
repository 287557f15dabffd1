"""The stages `train` and `evaluate` as the runner executes them."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from airflow_ml.lifecycle.evaluation import Evaluation
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.registry import tracking
from airflow_ml.stages.runner import execute


@pytest.mark.slow
def test_train_and_evaluate(request_of: Callable[..., JobRequest]) -> None:
    request = request_of("train")
    trained = execute(request)
    assert trained.metrics["validation_roc_auc"] > 0.75
    assert trained.summary["world_size"] == 2
    client = tracking.client_of(request.platform)
    run = trained.summary["mlflow_run_id"]
    assert [m.step for m in client.get_metric_history(run, "validation_loss")] == [1, 2, 3]
    assert client.get_run(run).info.status == "FINISHED"
    assert execute(request).reused

    inputs = {"train": trained.uri}
    evaluated = execute(request_of("evaluate", inputs=inputs))
    evaluation = Evaluation.model_validate_json(Path(evaluated.outputs["evaluation"].uri).read_bytes())
    assert evaluation.rows == 900
    assert evaluation.champion is None
    auc = evaluation.metrics["roc_auc"]
    assert auc.low < auc.value < auc.high
    by_carrier = [found for found in evaluation.slices if found.column == "carrier"]
    assert sum(found.rows for found in by_carrier) == 900
    predictions = pq.read_table(evaluated.outputs["test_predictions"].uri)
    assert predictions.column_names == [
        "entity", "ds", "event_time", "carrier", "origin", "hour", "dest", "wind", "distance", "label", "probability",
    ]  # fmt: skip
    page = Path(evaluated.reports["evaluation"].uri).read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert json.loads(Path(trained.outputs["model"].uri, "history.json").read_text())["epochs"] == 3
