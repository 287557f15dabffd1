"""Whether a Spark image can run features: a session that counts, and an entry point that needs no Airflow."""

import importlib
import importlib.metadata
import sys

from airflow_ml.stages.spark import spark_session

for name in ("airflow_ml.stages.features",):
    importlib.import_module(name)
with spark_session("smoke") as spark:
    assert spark.range(1000).selectExpr("sum(id)").collect()[0][0] == 499500
assert "airflow" not in sys.modules, "the features import Airflow"
versions = {name: importlib.metadata.version(name) for name in ("airflow-ml", "pyspark", "deltalake")}
print(f"spark works: {versions}")
