"""What Airflow's providers manager knows about this package (entry point ``apache_airflow_provider``)."""

from typing import Any

from airflow_ml.compute.platform import SETTINGS

_NAME = "airflow-ml"

_SETTINGS: dict[str, tuple[str, str]] = {
    "platform": ("module:attribute of a Platform; then no other setting is needed.", "acme.platforms:prod"),
    "base": ("Folder of the lake, the runs, the registry and the releases; absolute.", "/data/airflow-ml"),
    "landing": ("Root of relative source paths; left out: `<base>/landing`.", "/data/landing"),
    "checkpoints": (
        "Where trainings keep their checkpoints, a folder or s3://bucket/prefix; left out: beside their results.",
        "s3://acme-ml/checkpoints",
    ),
    "registry": ("MLflow tracking URI; left out: a SQLite file below the base.", "http://mlflow:5000"),
    "registry_ui": ("Address of MLflow's pages, for links.", "https://mlflow.example.com"),
    "python": ("Interpreter of local jobs; left out: the one that runs tasks.", "/opt/ml/bin/python"),
    "grace_s": ("Seconds between asking a job to end and ending it.", "5"),
    "serving_folder": (
        "Where versions are published, a folder or s3://bucket/prefix; left out: `<base>/serving`.",
        "/models",
    ),
    "serving_grpc": ("host:port of the model server's gRPC.", "127.0.0.1:8500"),
    "serving_rest": ("host:port of the model server's REST.", "127.0.0.1:8501"),
    "serving_seen_as": ("The folder of the versions as the model servers see it, where it is another.", "/models"),
    "serving_config": (
        "JSON of how the model servers are told what to load; left out: a file that they poll.",
        '{"kind": "configmap", "namespace": "ml", "name": "models"}',
    ),
    "serving_replicas": (
        "host:port of every model server, separated by commas; left out: the one of serving_grpc.",
        "models-0.models:8500,models-1.models:8500",
    ),
    "serving_conn_id": (
        "Connection of type tf_serving: its certificates and token go with every call to a replica.",
        "tf_serving_default",
    ),
    "smtp_conn_id": ("Connection of the SMTP provider for alerts; left out: no alerts.", "smtp_default"),
    "alerts_to": ("Recipients of alerts, separated by commas.", "ml@example.com"),
    "alerts_sender": ("Sender of alerts.", "airflow@example.com"),
    "connections": (
        "JSON of environment variable to connection id: passwords that jobs get in their environment.",
        '{"MLFLOW_TRACKING_PASSWORD": "mlflow"}',
    ),
    "computes": (
        "JSON of stage to the compute that it runs on: pods of a Kubernetes cluster. Other stages are local processes.",
        '{"train": {"kind": "kubernetes", "namespace": "ml", "image": "acme/trainer:1", "template": "/etc/pod.yaml"}}',
    ),
    "prices": (
        "JSON of what a GPU and a core cost an hour: the cost of trainings, which is kept with each version.",
        '{"gpu_hour": 2.5, "cpu_hour": 0.04, "currency": "EUR"}',
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
        "hooks": [
            {"integration-name": _NAME, "python-modules": ["airflow_ml.hooks.platform", "airflow_ml.hooks.tf_serving"]}
        ],
        "triggers": [{"integration-name": _NAME, "python-modules": ["airflow_ml.triggers"]}],
        "notifications": ["airflow_ml.notifications.alert.ModelAlertNotifier"],
        "extra-links": [
            "airflow_ml.operators.links.ReportLink",
            "airflow_ml.operators.links.PerformanceLink",
            "airflow_ml.operators.links.MLflowRunLink",
            "airflow_ml.operators.links.ModelVersionLink",
            "airflow_ml.operators.links.TrainingRunLink",
            "airflow_ml.operators.links.ReleaseRecordLink",
        ],
        "connection-types": [_platform_type(), _tf_serving_type()],
        "config": {"airflow_ml": _config()},
    }


def _platform_type() -> dict[str, Any]:
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


def _tf_serving_type() -> dict[str, Any]:
    return {
        "connection-type": "tf_serving",
        "hook-class-name": "airflow_ml.hooks.tf_serving.TFServingHook",
        "hook-name": "TensorFlow Serving",
        "ui-field-behaviour": {
            "hidden-fields": ["schema", "login", "extra"],
            "relabeling": {"password": "Token"},
            "placeholders": {"host": "models.example.com", "port": "8500", "password": "sent as a bearer token"},
        },
        "conn-fields": {
            "protocol": _field(
                "Protocol", "Which of the server's two ports it is.", enum=["grpc", "http"], default="grpc"
            ),
            "tls": _field("TLS", "Encrypt; implied by certificates.", type=["boolean", "null"], default=False),
            "ca": _field("CA certificates", "PEM, or the path of a file; left out: the machine's."),
            "certificate": _field("Client certificate", "PEM, or the path of a file; with its key: mutual TLS."),
            "key": _field("Client key", "PEM, or the path of a file.", format="password"),
            "deadline_s": _field("Deadline", "Seconds that a call may take; left out: 10.", type=["number", "null"]),
        },
    }


def _field(label: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": ["string", "null"]} | schema}


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
