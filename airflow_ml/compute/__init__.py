"""Where a stage runs: one port (`Compute`), one implementation an engine. Imports neither Airflow nor any engine."""

from airflow_ml.compute.base import Compute, Handle, JobState, Next, Phase, follow, wait
from airflow_ml.compute.local import LocalProcess
from airflow_ml.spec import LocalCompute

__all__ = ["Compute", "Handle", "JobState", "LocalProcess", "Next", "Phase", "follow", "open_compute", "wait"]


def open_compute(spec: LocalCompute) -> Compute:
    """The compute that a platform declares."""
    return LocalProcess(spec)
