"""One operator a verb, over one base: it sends a request to the compute of its stage and handles the result."""

from airflow_ml.operators.alert import SendAlertOperator
from airflow_ml.operators.data import (
    BuildFeaturesOperator,
    IngestOperator,
    IngestOutcomesOperator,
    ValidateDataOperator,
)
from airflow_ml.operators.production import (
    DecideRetrainingOperator,
    JoinFeedbackOperator,
    MonitorModelOperator,
    ReleaseModelOperator,
    ScoreOperator,
)
from airflow_ml.operators.training import (
    BuildTrainingSetOperator,
    CheckGatesOperator,
    EvaluateModelOperator,
    ExportModelOperator,
    RegisterModelOperator,
    TrainModelOperator,
)
from airflow_ml.operators.trigger import TriggerTrainingOperator

__all__ = [
    "BuildFeaturesOperator",
    "BuildTrainingSetOperator",
    "CheckGatesOperator",
    "DecideRetrainingOperator",
    "EvaluateModelOperator",
    "ExportModelOperator",
    "IngestOperator",
    "IngestOutcomesOperator",
    "JoinFeedbackOperator",
    "MonitorModelOperator",
    "RegisterModelOperator",
    "ReleaseModelOperator",
    "ScoreOperator",
    "SendAlertOperator",
    "TrainModelOperator",
    "TriggerTrainingOperator",
    "ValidateDataOperator",
]
