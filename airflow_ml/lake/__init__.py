"""Delta tables: stage files, commit partitions atomically, read a snapshot. Imports nothing heavy until used."""

from airflow_ml.lake.attempts import Attempt
from airflow_ml.lake.table import LakeTable, Snapshot

__all__ = ["Attempt", "LakeTable", "Snapshot"]
