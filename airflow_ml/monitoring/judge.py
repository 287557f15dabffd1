"""Judging a window: which tests can be judged, on which rows, and what they say together.

Columns and probabilities are judged on a seeded sample of at most `Monitoring.sample_rows` rows a side, because
Evidently's time grows with rows times columns; labels and ROC AUC on every labelled row: those are two columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.observations import ColumnDrift, Observation, Status
from airflow_ml.monitoring.columns import METHODS, MISSING, Watched, comparable, watched
from airflow_ml.monitoring.evidently_reports import LABEL, PROBABILITY, Findings, drift, performance
from airflow_ml.monitoring.samples import Sample
from airflow_ml.spec import Model

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Side:
    """A window, or its reference.

    Attributes:
        sample: Watched columns, and ``probability`` where it is known.
        scored: Every row with a prediction: ``probability``, and ``label`` (1.0, 0.0, or null).
    """

    sample: Sample
    scored: "pd.DataFrame"


@dataclass(frozen=True)
class Judgement:
    """What was found.

    Attributes:
        observation: As a value.
        drift: Of columns and probabilities.
        performance: Of labels and ranking.
    """

    observation: Observation
    drift: Findings = field(default_factory=Findings)
    performance: Findings = field(default_factory=Findings)


def judge(seen: Observation, window: Side, reference: Side, model: Model) -> Judgement:
    """Judge a window.

    Args:
        seen: What is known already: window, version, rows, coverage, broken input, notes.
        window: At least `Monitoring.min_rows` rows.
        reference: The test split of the version that made the predictions.
        model: Its `monitoring` is the policy.
    """
    policy = model.monitoring
    notes, broken = list(seen.notes), list(seen.broken)

    columns = watched(model)
    current, past, empty = _align(window.sample.frame, reference.sample.frame, columns)
    gone = [c.name for c in columns if c.name in empty and past[c.name].notna().any()]
    broken += [f"column {name} has no value in the whole window; the reference has" for name in gone]
    unknown = [c.name for c in columns if c.name in empty and c.name not in gone]
    if unknown:
        notes.append(f"not comparable, the reference has no value: {', '.join(unknown)}")
    testable = [c for c in columns if c.name not in empty]
    probability = Watched(PROBABILITY, "numeric", policy.numeric_distance)
    scored = current[PROBABILITY].notna().any() and past[PROBABILITY].notna().any()
    found = Findings()
    if testable or scored:
        found = drift(current, past, [*([probability] if scored else []), *testable])
    drifts = tuple(_column(c, current, past, found, gone) for c in columns)
    judged = [c for c in drifts if c.status != "not_judged"]
    failed = [c for c in judged if c.status == "fail"]
    share = len(failed) / len(judged) if judged else None

    ranked, labels = Findings(), _labelled(window.scored)
    past_labels = _labelled(reference.scored)
    if seen.coverage < policy.min_coverage:
        notes.append(
            f"performance and target are not judged: {seen.coverage:.1%} of the predictions that can have a label "
            f"have one, {policy.min_coverage:.0%} are declared"
        )
    elif len(labels) and len(past_labels):
        ranked = performance(labels, past_labels, policy.category_distance, policy.min_roc_auc)
        if labels[LABEL].nunique() < 2:
            notes.append("performance is not judged: all labels of the window are the same")

    observation = seen.model_copy(
        update={
            "data_drift": _below(share, policy.drifted_share),
            "prediction_drift": found.status("ValueDrift", PROBABILITY),
            "target_drift": ranked.status("ValueDrift", LABEL),
            "performance": ranked.status("RocAuc"),
            "columns": drifts,
            "drifted_share": share,
            "prediction_distance": found.value("ValueDrift", PROBABILITY),
            "target_distance": ranked.value("ValueDrift", LABEL),
            "roc_auc": ranked.value("RocAuc"),
            "positive_rate": _mean(labels, LABEL),
            "positive_rate_reference": _mean(past_labels, LABEL),
            "prediction_mean": _mean(window.scored, PROBABILITY),
            "prediction_mean_reference": _mean(reference.scored, PROBABILITY),
            "sampled": {
                "window": (len(window.sample.frame), window.sample.of),
                "reference": (len(reference.sample.frame), reference.sample.of),
            },
            "broken": tuple(broken),
            "notes": tuple(notes),
        }
    )
    return Judgement(observation, found, ranked)


def _align(
    window: "pd.DataFrame", reference: "pd.DataFrame", columns: Sequence[Watched]
) -> "tuple[pd.DataFrame, pd.DataFrame, set[str]]":
    """Both sides with comparable columns, and the names of those that have no value on one side."""
    import pandas as pd

    current, past, empty = {}, {}, set()
    for column in columns:
        nothing = not window[column.name].notna().any() or not reference[column.name].notna().any()
        if nothing:
            empty.add(column.name)
            current[column.name], past[column.name] = window[column.name], reference[column.name]
            continue
        current[column.name], past[column.name] = comparable(window[column.name], reference[column.name], column)
    current[PROBABILITY], past[PROBABILITY] = window[PROBABILITY], reference[PROBABILITY]
    return pd.DataFrame(current), pd.DataFrame(past), empty


def _column(
    column: Watched, window: "pd.DataFrame", reference: "pd.DataFrame", found: Findings, gone: Sequence[str]
) -> ColumnDrift:
    statuses = (found.status("ValueDrift", column.name), found.status("MissingValueCount", column.name))
    status: Status = "fail" if "fail" in statuses or column.name in gone else statuses[0]
    return ColumnDrift(
        column=column.name,
        status=status,
        method=METHODS[column.kind],
        distance=found.value("ValueDrift", column.name),
        threshold=column.threshold,
        missing=_missing(window[column.name]),
        missing_reference=_missing(reference[column.name]),
    )


def _missing(values: "pd.Series[Any]") -> float:
    return round(float((values.isna() | (values == MISSING)).mean()), 6)


def _labelled(scored: "pd.DataFrame") -> "pd.DataFrame":
    rows = scored.dropna(subset=[PROBABILITY, LABEL])
    return rows.assign(**{LABEL: rows[LABEL].astype(int)})


def _mean(frame: "pd.DataFrame", column: str) -> float | None:
    values = frame[column].dropna()
    return float(values.mean()) if len(values) else None


def _below(share: float | None, limit: float) -> Status:
    if share is None:
        return "not_judged"
    return "fail" if share >= limit else "pass"
