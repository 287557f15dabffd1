"""DAGs of one task each, whose stage starts children that do not want to end."""

from datetime import timedelta

from airflow.sdk import DAG

from airflow_ml import Column, Features, Files, Label, Model, Schema, at_least
from airflow_ml.operators import IngestOutcomesOperator

MODEL = Model(
    name="stubborn",
    source=Files(path="schedule/{ds}.csv.gz", schema=Schema(columns=(Column(name="id", type="string"),), key="id")),
    features=Features(build="stubborn_user:build", entity="id", event_time="at", numeric=("x",)),
    label=Label(
        compute="stubborn_user:label",
        delay="1d",
        source=Files(
            path="stubborn/{ds}.csv.gz",
            schema=Schema(columns=(Column(name="id", type="string"), Column(name="y", type="int")), key="id"),
        ),
    ),
    gates=(at_least("roc_auc", 0.5),),
    start="2013-01-01",
)

for name, options in {
    "stubborn": {"retries": 0},
    "stubborn_timeout": {"retries": 0, "execution_timeout": timedelta(seconds=20)},
    "stubborn_retried": {"retries": 3, "retry_delay": timedelta(seconds=1)},
}.items():
    with DAG(dag_id=name, schedule=None) as dag:
        IngestOutcomesOperator(task_id="ingest", model=MODEL, start="2013-01-01", end="2013-01-01", **options)
    globals()[name] = dag
