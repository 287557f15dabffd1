"""airflow_ml: the whole life of a machine-learning model as Apache Airflow 3 DAGs.

The names that a user's model file or platform needs are importable from here. They come from `airflow_ml.spec`,
which imports pydantic and nothing else, so a DAG file that imports a model stays cheap to parse. They are looked up
when they are asked for: who imports a part of the package, as the client of model servers, does not pay for
declarations.
"""

from typing import TYPE_CHECKING, Any

from airflow_ml.version import __version__

if TYPE_CHECKING:
    from airflow_ml.spec import (
        Alerts,
        Approval,
        Budget,
        Canary,
        Column,
        ConfigFile,
        ConfigMap,
        Features,
        Files,
        Horovod,
        Judging,
        KubernetesCompute,
        Label,
        LocalCompute,
        Model,
        Monitoring,
        Online,
        Platform,
        Prices,
        Reload,
        Schema,
        Scoring,
        Serving,
        ServingTarget,
        Split,
        Tune,
        Volume,
        at_least,
        at_most,
        beats_champion,
        between,
        calibrated,
        categories,
        each_slice,
        in_range,
        nulls,
        one_of,
        servable,
    )

__all__ = [
    "Alerts",
    "Approval",
    "Budget",
    "Canary",
    "Column",
    "ConfigFile",
    "ConfigMap",
    "Features",
    "Files",
    "Horovod",
    "Judging",
    "KubernetesCompute",
    "Label",
    "LocalCompute",
    "Model",
    "Monitoring",
    "Online",
    "Platform",
    "Prices",
    "Reload",
    "Schema",
    "Scoring",
    "Serving",
    "ServingTarget",
    "Split",
    "Tune",
    "Volume",
    "__version__",
    "at_least",
    "at_most",
    "beats_champion",
    "between",
    "calibrated",
    "categories",
    "each_slice",
    "in_range",
    "nulls",
    "one_of",
    "servable",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from airflow_ml import spec

    return getattr(spec, name)
