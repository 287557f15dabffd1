"""Alerts of a model in production."""

from airflow_ml.notifications.alert import ModelAlertNotifier

__all__ = ["ModelAlertNotifier"]
