"""DAG factories: a `Model` in, its DAGs out; and one task group a pipeline, for a DAG of one's own."""

from airflow_ml.pipelines.dags import model_dags
from airflow_ml.pipelines.groups import (
    TASK_DEFAULTS,
    data_pipeline,
    monitoring_pipeline,
    scoring_pipeline,
    training_pipeline,
)

__all__ = [
    "TASK_DEFAULTS",
    "data_pipeline",
    "model_dags",
    "monitoring_pipeline",
    "scoring_pipeline",
    "training_pipeline",
]
