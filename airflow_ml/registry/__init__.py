"""Runs, versions and champions: MLflow for people and history, small JSON records for what production may load."""
