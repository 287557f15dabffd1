"""What a user declares: frozen values, checked when they are made. Imports pydantic and nothing of ours."""

from airflow_ml.spec.features import Features, Label
from airflow_ml.spec.gates import Gate, at_least, at_most, beats_champion, calibrated, each_slice, servable
from airflow_ml.spec.model import Model
from airflow_ml.spec.monitoring import Budget, Monitoring
from airflow_ml.spec.platform import Alerts, LocalCompute, Platform, ServingTarget
from airflow_ml.spec.serving import Scoring, Serving
from airflow_ml.spec.source import Column, Files, Schema, Volume, categories, in_range, nulls
from airflow_ml.spec.training import Horovod, Split

__all__ = [
    "Alerts",
    "Budget",
    "Column",
    "Features",
    "Files",
    "Gate",
    "Horovod",
    "Label",
    "LocalCompute",
    "Model",
    "Monitoring",
    "Platform",
    "Schema",
    "Scoring",
    "Serving",
    "ServingTarget",
    "Split",
    "Volume",
    "at_least",
    "at_most",
    "beats_champion",
    "calibrated",
    "categories",
    "each_slice",
    "in_range",
    "nulls",
    "servable",
]
