"""Conditions that a run waits for: a landed file, a committed partition, labels, a served version, its traffic."""

from airflow_ml.sensors.readiness import LabelsArrivedSensor, LandingFileSensor, PartitionCommittedSensor
from airflow_ml.sensors.serving import ModelVersionSensor, TrafficReachedSensor

__all__ = [
    "LabelsArrivedSensor",
    "LandingFileSensor",
    "ModelVersionSensor",
    "PartitionCommittedSensor",
    "TrafficReachedSensor",
]
