"""The watched columns made comparable: types, missing values, and no more categories than the rows can carry.

Distances, not p-values, decide. Rows of one day share their weather, their strikes and their holidays, so they are not
the independent draws that a test assumes: with thousands of them a p-value calls every week "drifted". A distance has a
unit that a person can judge, and does not shrink when more rows come.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from airflow_ml.spec import Model

if TYPE_CHECKING:
    import pandas as pd

MISSING = "(missing)"
OTHER = "(other)"
MISSING_SHARE = 0.1
"""A number column has drifted, too, when the share of its nulls is this much above the reference's. Nulls of a category
column are a category, and count in its distance."""

METHODS: dict[str, str] = {"numeric": "wasserstein", "categorical": "jensenshannon"}
"""Evidently's names. The Wasserstein distance is taken in standard deviations of the reference, and needs no bins;
Jensen-Shannon is bounded, and defined where a category is new or gone, which PSI is not.

Source: https://docs.evidentlyai.com/metrics/customize_data_drift"""


@dataclass(frozen=True)
class Watched:
    """A column with its test.

    Attributes:
        name: Model input.
        kind: How it is compared.
        threshold: Its test fails from this distance on.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    threshold: float

    @property
    def method(self) -> str:
        """Evidently's name of the distance."""
        return METHODS[self.kind]


def watched(model: Model) -> tuple[Watched, ...]:
    """The columns that a model declares to be watched, in the order of its inputs."""
    policy = model.monitoring
    chosen = set(policy.columns if policy.columns is not None else model.features.columns)
    return (
        *(Watched(n, "categorical", policy.category_distance) for n in model.features.categorical if n in chosen),
        *(Watched(n, "numeric", policy.numeric_distance) for n in model.features.numeric if n in chosen),
    )


def comparable(
    window: "pd.Series[Any]", reference: "pd.Series[Any]", column: Watched
) -> "tuple[pd.Series[Any], pd.Series[Any]]":
    """Both sides of a column as Evidently compares them."""
    import numpy as np
    import pandas as pd

    if column.kind == "numeric":
        numbers = [pd.to_numeric(side, errors="coerce").astype(float) for side in (window, reference)]
        current, past = (side.replace([np.inf, -np.inf], np.nan) for side in numbers)
        return current, past
    texts = [side.astype(object).where(side.notna(), MISSING).astype(str) for side in (window, reference)]
    keep = set(texts[1].value_counts().index[: bearable(len(window), len(reference), column.threshold)])
    return texts[0].where(texts[0].isin(keep), OTHER), texts[1].where(texts[1].isin(keep), OTHER)


def bearable(window_rows: int, reference_rows: int, threshold: float) -> int:
    """How many categories two samples can tell apart: so many that chance alone stays below half the threshold.

    Two samples of one distribution over k categories have an expected Jensen-Shannon divergence of about
    ``(k - 1) / 8 * (1/n + 1/m)``, and the distance is its square root: with 500 rows each and 100 categories, 0.22. The
    most frequent categories of the reference are kept, and the rest is one.
    """
    if not window_rows or not reference_rows:
        return 1
    chance = 1 / window_rows + 1 / reference_rows
    return max(2, int(2 * threshold**2 / chance))
