"""What Airflow's providers manager knows about this package (entry point ``apache_airflow_provider``)."""

from typing import Any

from airflow_ml.compute.platform import SETTINGS

_NAME = "airflow-ml"

_SETTINGS: dict[str, tuple[str, str]] = {
    "platform": ("module:attribute of a Platform; then no other setting is needed.", "acme.platforms:prod"),
    "base": ("Folder of the lake, the runs, the registry and the releases; absolute.", "/data/airflow-ml"),
    "landing": ("Root of relative source paths; left out: `<base>/landing`.", "/data/landing"),
    "registry": ("MLflow tracking URI; left out: a SQLite file below the base.", "http://mlflow:5000"),
    "registry_ui": ("Address of MLflow's pages, for links.", "https://mlflow.example.com"),
    "python": ("Interpreter of local jobs; left out: the one that runs tasks.", "/opt/ml/bin/python"),
    "grace_s": ("Seconds between asking a job to end and ending it.", "5"),
    "serving_folder": ("Folder that the model server reads; left out: `<base>/serving`.", "/models"),
    "serving_grpc": ("host:port of the model server's gRPC.", "127.0.0.1:8500"),
    "serving_rest": ("host:port of the model server's REST.", "127.0.0.1:8501"),
    "smtp_conn_id": ("Connection of the SMTP provider for alerts; left out: no alerts.", "smtp_default"),
    "alerts_to": ("Recipients of alerts, separated by commas.", "ml@example.com"),
    "alerts_sender": ("Sender of alerts.", "airflow@example.com"),
    "connections": (
        "JSON of environment variable to connection id: passwords that jobs get in their environment.",
        '{"MLFLOW_TRACKING_PASSWORD": "mlflow"}',
    ),
}


def get_provider_info() -> dict[str, Any]:
    """Metadata in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": _NAME,
        "name": "airflow-ml",
        "description": "The life of a machine-learning model as DAGs: features, training, gates, serving, drift.",
        "integrations": [
            {
                "integration-name": _NAME,
                "external-doc-url": "https://pypi.org/project/airflow-ml/",
                "tags": ["software"],
            }
        ],
        "operators": [{"integration-name": _NAME, "python-modules": ["airflow_ml.operators"]}],
        "sensors": [{"integration-name": _NAME, "python-modules": ["airflow_ml.sensors"]}],
        "hooks": [{"integration-name": _NAME, "python-modules": ["airflow_ml.hooks.platform"]}],
        "triggers": [{"integration-name": _NAME, "python-modules": ["airflow_ml.triggers"]}],
        "notifications": ["airflow_ml.notifications.alert.ModelAlertNotifier"],
        "extra-links": [
            "airflow_ml.operators.links.ReportLink",
            "airflow_ml.operators.links.MLflowRunLink",
            "airflow_ml.operators.links.ModelVersionLink",
            "airflow_ml.operators.links.TrainingRunLink",
        ],
        "connection-types": [_connection_type()],
        "config": {"airflow_ml": _config()},
    }


def _connection_type() -> dict[str, Any]:
    return {
        "connection-type": "airflow_ml",
        "hook-class-name": "airflow_ml.hooks.platform.PlatformHook",
        "hook-name": "airflow-ml platform",
        "ui-field-behaviour": {
            "hidden-fields": ["host", "schema", "login", "password", "port", "extra"],
            "relabeling": {},
            "placeholders": {},
        },
        "conn-fields": {
            name: {
                "label": name.replace("_", " ").capitalize(),
                "description": f"{text} Example: {example}",
                "schema": {"type": ["string", "null"]},
            }
            for name, (text, example) in _SETTINGS.items()
        },
    }


def _config() -> dict[str, Any]:
    options: dict[str, Any] = {
        "conn_id": _option("Connection of type airflow_ml that describes the platform.", "airflow_ml_default")
    }
    options |= {name: _option(*_SETTINGS[name]) for name in ("platform", *SETTINGS)}
    return {
        "description": "Where models live: one platform, or the settings of one. Or none: AIRFLOW_ML_* variables.",
        "options": options,
    }


def _option(description: str, example: str) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": "string",
        "example": example,
        "default": None,
    }
