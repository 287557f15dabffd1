"""One small model, trained by nobody and exported once a test session."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airflow_ml.lifecycle.preprocessing import Preprocessing, fit
from airflow_ml.serving.golden import GoldenRequest, golden_requests


@dataclass(frozen=True)
class Exported:
    """A SavedModel and what it was made of."""

    path: Path
    module: Any
    preprocessing: Preprocessing
    columns: dict[str, np.ndarray]
    probability: np.ndarray
    golden: list[GoldenRequest]


def raw_columns(rows: int = 500, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns with everything that real ones have: missing values, unknown categories, infinities."""
    random = np.random.default_rng(seed)
    return {
        "carrier": random.choice(np.array(["AA", "UA", "DL", "", None, "é"], dtype=object), rows),
        "hour": random.integers(0, 24, rows),
        "distance": random.normal(500, 200, rows),
        "wind": np.where(random.random(rows) < 0.1, np.nan, random.normal(10, 4, rows)),
    }


def network(cardinalities: tuple[int, ...], numeric: int, seed: int = 0) -> Any:
    """Embeddings and a small perceptron, with random weights."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embeddings = torch.nn.ModuleList([torch.nn.Embedding(size, 4) for size in cardinalities])
            width = 4 * len(cardinalities) + numeric
            self.layers = torch.nn.Sequential(
                torch.nn.BatchNorm1d(width),
                torch.nn.Linear(width, 32),
                torch.nn.ReLU(),
                torch.nn.Dropout(0.3),
                torch.nn.Linear(32, 1),
            )

        def forward(self, categorical, numeric):
            embedded = [embedding(categorical[:, i]) for i, embedding in enumerate(self.embeddings)]
            return self.layers(torch.cat([*embedded, numeric], dim=1)).squeeze(-1)

    torch.manual_seed(seed)
    return Net()


def make(folder: Path, seed: int = 0) -> Exported:
    """Export a model with weights of its own."""
    from airflow_ml.serving.export import export_saved_model, torch_probability

    columns = raw_columns()
    preprocessing = fit(columns, ["carrier", "hour"], ["distance", "wind"])
    module = network(preprocessing.cardinalities, 2, seed)
    probability = torch_probability(module, preprocessing, columns)
    golden = golden_requests(preprocessing, {k: v[:32] for k, v in columns.items()}, probability[:32])
    export_saved_model(module, preprocessing, folder, warmup=golden[:2])
    return Exported(folder, module, preprocessing, columns, probability, golden)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A model; not to be changed."""
    return make(tmp_path_factory.mktemp("exported") / "saved_model")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Another model of the same columns, whose answers differ."""
    return make(tmp_path_factory.mktemp("other") / "saved_model", seed=1)
