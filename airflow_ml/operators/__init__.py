"""One operator a verb, over one base: it sends a request to the compute of its stage and handles the result."""

from airflow_ml.operators.alert import SendAlertOperator
from airflow_ml.operators.approve import ApproveReleaseOperator
from airflow_ml.operators.data import (
    BuildFeaturesOperator,
    IngestOperator,
    IngestOutcomesOperator,
    ValidateDataOperator,
)
from airflow_ml.operators.predict import PredictOperator
from airflow_ml.operators.production import (
    DecideRetrainingOperator,
    JoinFeedbackOperator,
    MonitorModelOperator,
    ReleaseModelOperator,
    ScoreOperator,
)
from airflow_ml.operators.rollout import PromoteModelOperator, RollbackModelOperator, RolloutModelOperator
from airflow_ml.operators.training import (
    BuildTrainingSetOperator,
    CheckGatesOperator,
    EvaluateModelOperator,
    ExportModelOperator,
    RegisterModelOperator,
    TrainModelOperator,
    TuneModelOperator,
)
from airflow_ml.operators.trigger import TriggerTrainingOperator

__all__ = [
    "ApproveReleaseOperator",
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
    "PredictOperator",
    "PromoteModelOperator",
    "RegisterModelOperator",
    "ReleaseModelOperator",
    "RollbackModelOperator",
    "RolloutModelOperator",
    "ScoreOperator",
    "SendAlertOperator",
    "TrainModelOperator",
    "TriggerTrainingOperator",
    "TuneModelOperator",
    "ValidateDataOperator",
]
