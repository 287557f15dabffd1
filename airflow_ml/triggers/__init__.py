"""Waiting without a worker."""

from airflow_ml.triggers.job import JobTrigger
from airflow_ml.triggers.looking import LookTrigger
from airflow_ml.triggers.readiness import ReadinessTrigger
from airflow_ml.triggers.rollout import RolloutTrigger

__all__ = ["JobTrigger", "LookTrigger", "ReadinessTrigger", "RolloutTrigger"]
