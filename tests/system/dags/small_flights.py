"""The flights model, small: six weeks of history, gates that two weeks' training can pass, and drift at a touch."""

from airflow_ml import at_least, beats_champion, servable
from airflow_ml.examples.flights.model import flights
from airflow_ml.pipelines import model_dags
from airflow_ml.spec import Split

small = flights.model_copy(
    update={
        "training": flights.training.model_copy(
            update={
                "window": 43,
                "split": Split(validation=7, test=7),
                "params": {**flights.training.params, "epochs": 5, "batch_size": 512},
                "min_labels": 1000,
            }
        ),
        "gates": (at_least("roc_auc", 0.55), beats_champion("roc_auc", by=-0.05), servable()),
        "monitoring": flights.monitoring.model_copy(update={"drifted_share": 0.01, "window": 3, "cooldown": 2}),
    }
)

made = model_dags(small)
for dag_id, task_id in (("flights_scoring", "wait_for_features"), ("flights_monitoring", "wait_for_predictions")):
    # A night that does not come is given up within a test.
    waits = made[dag_id].get_task(task_id)
    waits.timeout, waits.poke_interval = 20, 5
globals().update(made)
