"""The release DAG of a model whose releases a person approves, and then go in canary steps; and one that asks it."""

from airflow.sdk import DAG

from airflow_ml import Canary, Column, Features, Files, Label, Model, Schema, Serving, at_least
from airflow_ml.operators import PredictOperator
from airflow_ml.pipelines import model_dags
from airflow_ml.pipelines.groups import TASK_DEFAULTS
from airflow_ml.sensors import ModelVersionSensor, TrafficReachedSensor

model = Model(
    name="small",
    source=Files(path="asked/{ds}.csv.gz", schema=Schema(columns=(Column(name="id", type="string"),), key="id")),
    features=Features(
        build="asked:build",
        entity="id",
        event_time="at",
        categorical=("carrier", "hour"),
        numeric=("distance", "wind"),
    ),
    label=Label(
        compute="asked:label",
        delay="1d",
        source=Files(
            path="answers/{ds}.csv.gz",
            schema=Schema(columns=(Column(name="id", type="string"), Column(name="y", type="int")), key="id"),
        ),
    ),
    gates=(at_least("roc_auc", 0.5),),
    serving=Serving(canary=Canary(shadow=False, steps=(0.5,), watch_s=0)),
    approval="required",
    start="2013-01-01",
    # Found by Airflow under a name of its own, and imported by the test.
    declared_in="asked",
)

release = model_dags(model)["small_release"]
release.get_task("rollout").deferrable = True

with DAG("small_ask", schedule=None, params={"version": 2, "rows": []}, default_args=TASK_DEFAULTS) as ask:
    version = "{{ params.version }}"
    loaded = ModelVersionSensor(task_id="loaded", model=model, version=version, deferrable=False)
    reached = TrafficReachedSensor(task_id="reached", model=model, version=version, deferrable=False)
    predict = PredictOperator(task_id="predict", model=model, rows="{{ params.rows | tojson }}")
    [loaded, reached] >> predict
