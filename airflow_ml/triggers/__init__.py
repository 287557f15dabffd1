"""Waiting without a worker."""

from airflow_ml.triggers.readiness import ReadinessTrigger

__all__ = ["ReadinessTrigger"]
