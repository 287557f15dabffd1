"""What a user declares: frozen values, checked when they are made. Imports pydantic and nothing of ours."""

from airflow_ml.spec.approval import Approval
from airflow_ml.spec.computes import AnyCompute, KubernetesCompute, LocalCompute
from airflow_ml.spec.features import Features, Label
from airflow_ml.spec.gates import Gate, at_least, at_most, beats_champion, calibrated, each_slice, servable
from airflow_ml.spec.model import Model
from airflow_ml.spec.monitoring import Budget, Monitoring
from airflow_ml.spec.platform import Alerts, Platform, Prices
from airflow_ml.spec.serving import Canary, Judging, Online, Scoring, Serving
from airflow_ml.spec.source import Column, Files, Schema, Volume, categories, in_range, nulls
from airflow_ml.spec.targets import ConfigFile, ConfigMap, Reload, ServingTarget
from airflow_ml.spec.training import Horovod, Split
from airflow_ml.spec.tuning import Tune, between, one_of

__all__ = [
    "Alerts",
    "AnyCompute",
    "Approval",
    "Budget",
    "Canary",
    "Column",
    "ConfigFile",
    "ConfigMap",
    "Features",
    "Files",
    "Gate",
    "Horovod",
    "Judging",
    "KubernetesCompute",
    "Label",
    "LocalCompute",
    "Model",
    "Monitoring",
    "Online",
    "Platform",
    "Prices",
    "Reload",
    "Schema",
    "Scoring",
    "Serving",
    "ServingTarget",
    "Split",
    "Tune",
    "Volume",
    "at_least",
    "at_most",
    "beats_champion",
    "between",
    "calibrated",
    "categories",
    "each_slice",
    "in_range",
    "nulls",
    "one_of",
    "servable",
]
