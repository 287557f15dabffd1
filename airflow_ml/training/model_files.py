"""What a training leaves behind: the network as a `torch.export` program, its preprocessing, its history."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from airflow_ml.lifecycle.errors import TrainingFailed
from airflow_ml.lifecycle.preprocessing import Preprocessing

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

PROGRAM = "model.pt2"
PREPROCESSING = "preprocessing.json"
HISTORY = "history.json"


def write(
    folder: Path, network: nn.Module, example: tuple[Tensor, Tensor], preprocessing: Path, history: dict[str, Any]
) -> None:
    """Write the model's folder.

    Args:
        folder: Created; nothing in it counts until the stage pins it.
        network: As `fit` returned it.
        example: Some real rows: categorical int64 [n, columns], numeric float32 [n, columns]; n of 3 or more, so
            that no dimension is mistaken for a constant.
        preprocessing: Is copied.
        history: Written as JSON.

    Raises:
        TrainingFailed: The network cannot be exported with a free batch size.
    """
    network = network.cpu().eval()
    batch = torch.export.Dim("batch", min=1)
    try:
        program = torch.export.export(network, example, dynamic_shapes=({0: batch}, {0: batch}))
    except Exception as error:  # torch has no common class for what it cannot trace
        raise TrainingFailed(
            f"torch.export cannot trace the network: {type(error).__name__}: {error}",
            where="the module that fit returned",
            remedy="keep Python control flow on tensor values and on the batch size out of forward()",
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, folder / PROGRAM)
    shutil.copyfile(preprocessing, folder / PREPROCESSING)
    (folder / HISTORY).write_text(json.dumps(history, indent=1), encoding="utf-8")


def probabilities(network: nn.Module, preprocessing: Preprocessing, columns: "Mapping[str, Array]") -> "Array":
    """Probability of the positive class from raw columns [n]: float32 [n]."""
    categorical, numeric = preprocessing.apply(columns)
    with torch.no_grad():
        logits: Tensor = network(torch.from_numpy(categorical), torch.from_numpy(numeric))
    found: Array = torch.sigmoid(logits).numpy()
    return found


def load(folder: Path) -> nn.Module:
    """The network of a model's folder, to be called like the one that was written."""
    module: nn.Module = torch.export.load(folder / PROGRAM).module()
    return module
