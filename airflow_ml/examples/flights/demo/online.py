"""One online prediction, asked for as any client of a TF Serving would."""

import json
import urllib.request
from pathlib import Path
from typing import Any

from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Model


def predict(model: Model, base: Path, rest_address: str) -> dict[str, Any]:
    """Ask the model server for one flight of the last night.

    Args:
        model: The declaration.
        base: With the features of the night.
        rest_address: ``host:port`` of the server's REST API.

    Returns:
        ``curl``, the line that asks the same, and the ``probability``.
    """
    table = LakeTable(base / f"lake/{model.name}/features")
    night = max(table.snapshot().rows)
    row = table.read(Window.of(night), columns=list(model.features.columns)).slice(0, 1).to_pylist()[0]
    numeric = set(model.features.numeric)
    # A missing number is a bare NaN, which TF Serving's REST API reads although JSON has none.
    instance = {key: _json_value(value, key in numeric) for key, value in row.items()}
    body = json.dumps({"instances": [instance]})
    url = f"http://{rest_address}/v1/models/{model.name}/labels/stable:predict"
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.loads(response.read())
    prediction = answer["predictions"][0]
    probability = prediction["probability"] if isinstance(prediction, dict) else prediction
    return {"curl": f"curl -s -d '{body}' {url}", "probability": float(probability)}


def _json_value(value: Any, numeric: bool) -> Any:
    if value is None:
        return float("nan") if numeric else ""
    return value
