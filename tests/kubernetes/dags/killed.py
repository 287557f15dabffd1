"""Two DAGs of one training each, which differ in where they wait for it: in the worker, or in the triggerer."""

from datetime import date, timedelta

from airflow.sdk import DAG

from airflow_ml import Column, Features, Files, Horovod, Label, Model, Schema, at_least
from airflow_ml.operators import TrainModelOperator

START = date(2013, 1, 1)
END = START + timedelta(days=59)
EPOCHS = 4
_SCHEMA = Schema(columns=(Column(name="entity", type="string"),), key="entity")

MODEL = Model(
    name="killed",
    source=Files(path="{ds}.csv", schema=_SCHEMA),
    features=Features(
        build="killed:build",
        entity="entity",
        event_time="event_time",
        categorical=("carrier", "dest"),
        numeric=("hour", "wind", "distance"),
    ),
    label=Label(compute="killed:late", source=Files(path="out/{ds}.csv", schema=_SCHEMA)),
    training=Horovod(
        workers=2,
        window=60,
        params={"epochs": EPOCHS, "batch_size": 64, "hidden": [16], "learning_rate": 0.02, "dropout": 0.0},
    ),
    gates=(at_least("roc_auc", 0.5),),
    start=START,
)

for name, deferrable in (("killed_worker", False), ("killed_trigger", True)):
    with DAG(dag_id=name, schedule=None, max_active_runs=8) as dag:
        TrainModelOperator(
            task_id="train",
            model=MODEL,
            start=START.isoformat(),
            end=END.isoformat(),
            inputs={"training_set": "{{ dag_run.conf['training_set'] }}"},
            training_params="{{ dag_run.conf['params'] | tojson }}",
            stage_params={"stand_in": "{{ dag_run.conf.get('stand_in', '') }}"},
            deferrable=deferrable,
            retries=4,
            retry_delay=timedelta(seconds=1),
            execution_timeout=timedelta(minutes=5),
        )
    globals()[name] = dag
