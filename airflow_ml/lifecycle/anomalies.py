"""What validation found in raw partitions, and what it means."""

from collections.abc import Iterable
from typing import Literal

from airflow_ml.spec.base import Frozen
from airflow_ml.spec.source import Severity

Verdict = Literal["ok", "warnings", "broken"]
Kind = Literal[
    "missing_column", "new_column", "type", "empty_field", "range", "nulls", "categories", "volume", "event_time"
]


class Anomaly(Frozen):
    """One check that one partition did not pass.

    Attributes:
        day: Partition, ISO.
        kind: Which check.
        column: Column; None for the partition as a whole.
        severity: ``fail`` stops the pipeline, ``warn`` is only told.
        found: What was found, for a person.
        expected: What was declared or learnt, for a person.
        rows: Rows that did not pass; None where rows are not what is counted.
    """

    day: str
    kind: Kind
    column: str | None = None
    severity: Severity
    found: str
    expected: str
    rows: int | None = None

    def __str__(self) -> str:
        subject = f"column {self.column!r}: " if self.column else ""
        return f"{self.day}: {subject}{self.found}, expected {self.expected}"


class Anomalies(Frozen):
    """All that was found in a window.

    Attributes:
        model: Name.
        window: First and last day, ISO.
        rows: Rows that were looked at.
        compared_with: Whose statistics the values were compared with, for a person.
        anomalies: In order of days.
        unjudged: Checks that could not be made, and why.
    """

    model: str
    window: tuple[str, str]
    rows: int
    compared_with: str
    anomalies: tuple[Anomaly, ...] = ()
    unjudged: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """``broken`` by one failure, ``warnings`` by one warning."""
        return verdict_of(self.anomalies)

    @property
    def failures(self) -> tuple[Anomaly, ...]:
        """Those that stop the pipeline."""
        return tuple(anomaly for anomaly in self.anomalies if anomaly.severity == "fail")


def verdict_of(anomalies: Iterable[Anomaly]) -> Verdict:
    """The worst severity decides."""
    severities = {anomaly.severity for anomaly in anomalies}
    return "broken" if "fail" in severities else "warnings" if severities else "ok"
