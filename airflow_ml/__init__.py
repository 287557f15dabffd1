"""airflow_ml: the whole life of a machine-learning model as Apache Airflow 3 DAGs.

The names a user's model file needs are importable from here. They come from `airflow_ml.spec`, which imports pydantic
and nothing else, so a DAG file that imports a model stays cheap to parse.
"""

from airflow_ml.spec import (
    Budget,
    Column,
    Features,
    Files,
    Horovod,
    Label,
    Model,
    Monitoring,
    Platform,
    Schema,
    Scoring,
    Serving,
    Volume,
    at_least,
    at_most,
    beats_champion,
    calibrated,
    categories,
    each_slice,
    in_range,
    nulls,
    servable,
)
from airflow_ml.version import __version__

__all__ = [
    "Budget",
    "Column",
    "Features",
    "Files",
    "Horovod",
    "Label",
    "Model",
    "Monitoring",
    "Platform",
    "Schema",
    "Scoring",
    "Serving",
    "Volume",
    "__version__",
    "at_least",
    "at_most",
    "beats_champion",
    "calibrated",
    "categories",
    "each_slice",
    "in_range",
    "nulls",
    "servable",
]
