"""`TrainingJob`: what every rank of one training is told, as a JSON file."""

from typing import Any

from pydantic import Field

from airflow_ml.spec.base import EntryPoint, Frozen


class TrainingJob(Frozen):
    """One training. All paths are folders or files that every rank can read.

    Attributes:
        fingerprint: Identity of the training; a checkpoint of another one is not resumed.
        train: Folder of Parquet files.
        validation: Folder of Parquet files.
        preprocessing: JSON of `lifecycle.preprocessing.Preprocessing`.
        label: Column of 0 and 1.
        fit: Entry point of the user's ``fit``, or None for the built-in network.
        params: For ``fit``.
        seed: Everything random comes from here.
        workers: Number of ranks.
        gpus_per_worker: 0 trains on the CPU.
        threads: Computing threads of a rank; 0 for those that its pod has, where whoever writes this is no such pod.
        state: Of checkpoints, a folder or ``s3://bucket/prefix``; outlives a failed attempt.
        out: Folder that rank 0 writes the model into.
        fusion_threshold_mb: Horovod fuses gradients up to so many MiB into one message; None exchanges all in one.
        cycle_time_ms: Horovod looks for gradients to exchange once in so many ms.
        step_timeout_s: A rank that gets no further for so long hangs.
    """

    fingerprint: str
    train: str
    validation: str
    preprocessing: str
    label: str = "label"
    fit: EntryPoint | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    seed: int = 1
    workers: int = Field(ge=1)
    gpus_per_worker: int = Field(default=0, ge=0)
    threads: int = Field(default=1, ge=0)
    state: str
    out: str
    fusion_threshold_mb: float | None = None
    cycle_time_ms: float | None = None
    step_timeout_s: float = Field(default=600.0, gt=0)

    @property
    def tuning(self) -> dict[str, str]:
        """Horovod's settings, for the environment of a rank."""
        found = {}
        if self.fusion_threshold_mb is not None:
            found["HOROVOD_FUSION_THRESHOLD"] = str(int(self.fusion_threshold_mb * (1 << 20)))
        if self.cycle_time_ms is not None:
            found["HOROVOD_CYCLE_TIME"] = f"{self.cycle_time_ms:g}"
        return found
