"""Whether an Airflow image knows our provider, and its DAGs can be parsed without what only jobs need."""

import importlib
import sys

from airflow.providers_manager import ProvidersManager

from airflow_ml.examples.flights.model import flights
from airflow_ml.pipelines import model_dags

for name in ("airflow_ml.operators", "airflow_ml.triggers.job"):
    importlib.import_module(name)
dags = model_dags(flights)
assert "flights_training" in dags, dags
assert "airflow-ml" in ProvidersManager().providers, "the provider is not registered"
heavy = {"torch", "tensorflow", "pyspark", "mlflow", "evidently"} & set(sys.modules)
assert not heavy, f"parsing imports {heavy}"
print(f"airflow works: {len(dags)} DAGs of {flights.name}")
