"""Registers the plugin where this repository is mounted and not installed; an installed package registers itself."""

from importlib.metadata import entry_points

if not any(point.value.startswith("airflow_ml.") for point in entry_points(group="airflow.plugins")):
    from airflow_ml.ui.plugin import AirflowMLPlugin  # noqa: F401
