"""Does the exported model say what the network says? On the whole test split, before anybody trusts it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.errors import ExportRefused
from airflow_ml.lifecycle.preprocessing import Preprocessing
from airflow_ml.serving.export.network import torch_probability
from airflow_ml.serving.scorer import SavedModelScorer
from airflow_ml.spec.base import Frozen

if TYPE_CHECKING:
    import numpy as np
    import torch

#: The largest difference in probability that is rounding and not a fault.
LIMIT = 1e-5


class Parity(Frozen):
    """How far two forms of one model are apart.

    Attributes:
        max_abs_diff: Largest difference in probability; infinite if one of the two is not a number.
        rows: Rows compared.
    """

    max_abs_diff: float
    rows: int


def parity(
    saved_model: Path,
    module: torch.nn.Module,
    preprocessing: Preprocessing,
    batches: Iterable[Mapping[str, np.ndarray[Any, Any]]],
) -> Parity:
    """Compare the exported model with the network, batch by batch.

    Args:
        saved_model: From ``export_saved_model``.
        module: The network.
        preprocessing: Learnt with it.
        batches: Raw columns, [n] each; read once.
    """
    import numpy as np

    worst, rows = 0.0, 0
    with SavedModelScorer(saved_model) as scorer:
        for columns in batches:
            difference = np.abs(scorer.predict(columns) - torch_probability(module, preprocessing, columns))
            if len(difference):
                largest = float(difference.max())  # NaN wins over every number
                worst = math.inf if math.isnan(largest) else max(worst, largest)
            rows += len(difference)
    return Parity(max_abs_diff=worst, rows=rows)


def check_parity(found: Parity, limit: float = LIMIT, where: str = "") -> None:
    """Refuse an export that does not say what the network says.

    Raises:
        ExportRefused: no rows, or a difference above ``limit``.
    """
    if not found.rows:
        raise ExportRefused("parity was checked on no rows", where, "give the test split")
    if not found.max_abs_diff <= limit:
        raise ExportRefused(
            f"the exported model differs from the network by {found.max_abs_diff:.2g} on {found.rows} rows "
            f"(allowed: {limit:g})",
            where,
            "look for operators that depend on random numbers or on the batch, or export through a builder",
        )
