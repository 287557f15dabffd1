"""`Release`: a registered version that passed its gates, bound to the gate report by hash.

Deploying takes a `Release`; nothing else in the package can deploy, so nothing unvalidated reaches production.
"""

from datetime import date
from typing import Literal

from pydantic import Field

from airflow_ml.lifecycle.errors import NotReleasable
from airflow_ml.lifecycle.requests import FileOutput
from airflow_ml.spec.base import Frozen

Verdict = Literal["passed", "rejected"]

REPORT_TITLES = {"gates": "Gate report", "evaluation": "Evaluation, with plots"}
"""What a link to a report is called."""


class Release(Frozen):
    """What production may load.

    Attributes:
        model: Name.
        version: Registry version.
        verdict: Of the gate report; only ``passed`` can be deployed.
        saved_model: Folder of the SavedModel, pinned by its tree hash.
        gate_report: JSON of the gate report; its hash is part of the release's identity.
        golden: Golden requests.
        reference: Sample of the test split with predictions: what monitoring compares with.
        statistics: Column statistics of the training split: what validation compares with.
        signature: Input name to dtype.
        training_fingerprint: Fingerprint of the training result.
        previous_champion: Version that was champion when the gates were judged, or None.
        trained_to: End of the training window: when this version was made, in data time.
        metrics: Of the evaluation, by name.
        reasons: Why it was rejected.
        mlflow_run_id: Run that trained it.
        usage: What its training took: ``gpu_hours``, ``cpu_hours``, ``cost``, ``currency``.
        reports: Pages that a person reads before saying yes: ``evaluation`` with its plots, ``gates``.
    """

    model: str
    version: int
    verdict: Verdict
    saved_model: FileOutput
    gate_report: FileOutput
    golden: FileOutput
    reference: FileOutput
    statistics: FileOutput
    signature: dict[str, str]
    training_fingerprint: str
    previous_champion: int | None = None
    trained_to: date | None = None
    metrics: dict[str, float | None] = Field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    mlflow_run_id: str = ""
    usage: dict[str, float | str] = Field(default_factory=dict)
    reports: dict[str, FileOutput] = Field(default_factory=dict)

    @property
    def id(self) -> str:
        """``v3-1f0c9a2b4d6e``: version and gate report hash."""
        return f"v{self.version}-{self.gate_report.sha256[:12]}"

    def require_passed(self) -> None:
        """Raise `NotReleasable` unless the gates are open."""
        if self.verdict != "passed":
            raise NotReleasable(
                f"version {self.version} was rejected by its gates",
                where=f"model {self.model}",
                remedy=f"read the gate report {self.gate_report.uri}; train again or choose another version",
            )
