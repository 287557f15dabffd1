"""Evidently: the tests that decide, and the pages that a person reads.

Evidently is imported by the first call: it takes seconds. Test *statuses* decide. Metric values are kept as evidence,
and nothing compares them with a threshold again: methods differ in which direction is bad.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.observations import Status
from airflow_ml.monitoring.columns import MISSING_SHARE, Watched

if TYPE_CHECKING:
    import pandas as pd

PROBABILITY = "probability"
LABEL = "label"


@dataclass(frozen=True)
class Findings:
    """What one report found.

    Attributes:
        tests: Evidently's test results: column (or None), kind of metric, name, description, status.
        values: Metric values by (kind, column).
        html: The page.
    """

    tests: list[dict[str, Any]] = field(default_factory=list)
    values: dict[tuple[str, str | None], float] = field(default_factory=dict)
    html: str = ""

    def status(self, kind: str, column: str | None = None) -> Status:
        """Of one kind of test of a column; what Evidently could not compute, or warns about, is not judged."""
        statuses = {test["status"] for test in self.tests if test["kind"] == kind and test["column"] == column}
        if "FAIL" in statuses:
            return "fail"
        return "pass" if statuses == {"SUCCESS"} else "not_judged"

    def value(self, kind: str, column: str | None = None) -> float | None:
        """The metric's value; None where it was not computed."""
        return self.values.get((kind, column))


def drift(window: "pd.DataFrame", reference: "pd.DataFrame", columns: Sequence[Watched]) -> Findings:
    """Compare columns one by one.

    Evidently's drift preset would show the same columns in one table, and draw and measure each of them three times for
    it; the table is at the top of our page instead (`pages`).

    Args:
        window: Comparable columns.
        reference: The same columns.
        columns: Those that have a value on both sides, at least one.
    """
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import MissingValueCount, ValueDrift
    from evidently.tests import lte

    metrics: list[Any] = []
    for column in columns:
        metrics.append(ValueDrift(column=column.name, method=column.method, threshold=column.threshold))
        if column.name == PROBABILITY:  # unknown where another version made the prediction
            continue
        nulls = float(reference[column.name].isna().mean())
        if nulls or window[column.name].isna().any():
            metrics.append(MissingValueCount(column=column.name, tests=[], share_tests=[lte(nulls + MISSING_SHARE)]))
    definition = DataDefinition(
        numerical_columns=[c.name for c in columns if c.kind == "numeric"],
        categorical_columns=[c.name for c in columns if c.kind == "categorical"],
    )
    names = [c.name for c in columns]
    current, past = (Dataset.from_pandas(side[names], definition) for side in (window, reference))
    return _run(Report(metrics, include_tests=True), current, past)


def performance(
    window: "pd.DataFrame", reference: "pd.DataFrame", target_distance: float, min_roc_auc: float | None
) -> Findings:
    """Compare labels, and test how well probabilities rank them.

    Args:
        window: Labelled rows: ``probability`` in [0, 1], ``label`` 0 or 1.
        reference: The same.
        target_distance: Jensen-Shannon distance of the label that fails.
        min_roc_auc: ROC AUC below it fails; None measures without a test.
    """
    from evidently import BinaryClassification, DataDefinition, Dataset, Report
    from evidently.metrics import LogLoss, RocAuc, ValueDrift
    from evidently.tests import gte

    metrics: list[Any] = [ValueDrift(column=LABEL, method="jensenshannon", threshold=target_distance)]
    if window[LABEL].nunique() == 2 and reference[LABEL].nunique() == 2:
        metrics += [RocAuc(tests=[] if min_roc_auc is None else [gte(min_roc_auc)]), LogLoss(tests=[])]
    definition = DataDefinition(
        numerical_columns=[PROBABILITY],
        categorical_columns=[LABEL],
        classification=[BinaryClassification(target=LABEL, prediction_probas=PROBABILITY, pos_label=1)],
    )
    names = [PROBABILITY, LABEL]
    current, past = (Dataset.from_pandas(side[names], definition) for side in (window, reference))
    return _run(Report(metrics, include_tests=True), current, past)


def _run(report: Any, window: Any, reference: Any) -> Findings:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's and scikit-learn's, about bins and constant columns
        snapshot = report.run(window, reference)
        html: str = snapshot.get_html_str(as_iframe=False)
    found = snapshot.dict()
    tests = [
        {
            "kind": _kind(test["metric_config"]["params"]),
            "column": test["metric_config"]["params"].get("column"),
            "name": test["name"],
            "description": test["description"],
            "status": test["status"].value,
        }
        for test in found["tests"]
    ]
    values = {
        (_kind(metric["config"]), metric["config"].get("column")): _value(metric["value"])
        for metric in found["metrics"]
    }
    return Findings(tests, values, html)


def _kind(config: Mapping[str, Any]) -> str:
    """``evidently:metric_v2:ValueDrift`` is ``ValueDrift``."""
    return str(config["type"]).rpartition(":")[2]


def _value(value: Any) -> float:
    return float(value["share"] if isinstance(value, dict) else value)
