"""Assets of a model: they announce what happened to people and other teams' DAGs; no decision of ours hangs on them."""

from airflow.sdk import Asset


def model_asset(model: str, what: str) -> Asset:
    """The asset ``<model>/<what>``: features, predictions or release."""
    return Asset(name=f"{model}/{what}", uri=f"airflow-ml://{model}/{what}", group="airflow_ml")
