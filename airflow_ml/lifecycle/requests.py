"""JobRequest and JobResult: the versioned protocol between the Airflow side and a job process.

The Airflow side never imports a stage: it sends a request to a compute and reads the result. Both are JSON below
``<base>/runs/``. Secrets are never in them; a request may only name connections.
"""

from typing import Any, Literal

from pydantic import Field

from airflow_ml.lifecycle.fingerprints import fingerprint
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Model, Platform
from airflow_ml.spec.base import Frozen

FORMAT = 1
"""Version of the protocol and of the base's layout; a reader refuses a newer one."""


TRIAL = ".trial"
"""End of the task id of a trial: the task that searches, and the number of the trial for its map index."""


class Coordinates(Frozen):
    """Which task instance sent a request. Shown and logged; never part of an identity.

    Attributes:
        task_instance: Airflow's id of it, which is another one for each try: who waits for a job.
    """

    dag_id: str
    task_id: str
    run_id: str
    map_index: int = -1
    try_number: int = 1
    task_instance: str = ""

    @property
    def trial(self) -> bool:
        """Whether a search sent it, which reads reports in the log."""
        return self.task_id.endswith(TRIAL)


class JobRequest(Frozen):
    """One stage to be run.

    Attributes:
        format: Protocol version.
        stage: Module of `airflow_ml.stages`.
        model: The whole declaration, so that a job needs only the user's entry points.
        platform: Where things are.
        window: Partitions, for stages that take them.
        params: Stage parameters (``version``, training parameters …).
        inputs: Upstream stage name to the URI of its result; a stage that is not named is looked up by its fingerprint.
        coordinates: The sender.
    """

    format: int = FORMAT
    stage: str
    model: Model
    platform: Platform
    window: Window | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    coordinates: Coordinates | None = None

    @property
    def spec_hash(self) -> str:
        """Fingerprint of the whole declaration: what `SpecChanged` compares."""
        return fingerprint(self.model.model_dump(mode="json", exclude={"declared_in"}))


class TableOutput(Frozen):
    """Committed partitions of a table, pinned."""

    kind: Literal["table"] = "table"
    table: str
    uri: str
    version: int
    partitions: tuple[str, ...]
    rows: int


class FileOutput(Frozen):
    """A file or folder, pinned by its content."""

    kind: Literal["file"] = "file"
    uri: str
    sha256: str
    media_type: str = "application/octet-stream"


class JobResult(Frozen):
    """What a stage did. Written last and atomically: where it exists, the stage is done.

    Attributes:
        fingerprint: Identity of (model, stage, window, spec, inputs, code version).
        spec_hash: Of the request's model.
        identity: What went into the fingerprint, by name: the lineage.
        outputs: Tables and files.
        metrics: Numbers; None where a metric could not be computed.
        reports: Files that a person opens, by name; the UI serves these and nothing else.
        summary: Small stage-specific facts (verdict, reasons, version).
        timings: Seconds by step.
        rows: Rows that the stage handled.
        reused: True when an earlier result with this fingerprint was returned. Never stored as True.
    """

    format: int = FORMAT
    stage: str
    model: str
    fingerprint: str
    spec_hash: str
    code_version: str
    window: Window | None = None
    identity: dict[str, Any] = Field(default_factory=dict)
    outputs: dict[str, TableOutput | FileOutput] = Field(default_factory=dict)
    metrics: dict[str, float | None] = Field(default_factory=dict)
    reports: dict[str, FileOutput] = Field(default_factory=dict)
    summary: dict[str, Any] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)
    wall_s: float = 0.0
    rows: int = 0
    components: dict[str, str] = Field(default_factory=dict)
    uri: str = ""
    reused: bool = False
