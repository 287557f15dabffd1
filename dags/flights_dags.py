"""The DAGs of the example: late flights of 2013."""

from airflow_ml.examples.flights.model import flights
from airflow_ml.pipelines import model_dags

globals().update(model_dags(flights))
