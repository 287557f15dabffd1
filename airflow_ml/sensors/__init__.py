"""Conditions that a run waits for: a landed file, a committed partition, labels."""

from airflow_ml.sensors.readiness import LabelsArrivedSensor, LandingFileSensor, PartitionCommittedSensor

__all__ = ["LabelsArrivedSensor", "LandingFileSensor", "PartitionCommittedSensor"]
