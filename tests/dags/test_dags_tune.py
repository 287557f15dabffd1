"""A search in a DAG: its trials are jobs, its study is recorded, and the training after it uses the best."""

from airflow.sdk import DAG

from airflow_ml import Tune, between
from airflow_ml.lifecycle.requests import JobResult
from airflow_ml.operators import TrainModelOperator, TuneModelOperator
from tests.support.models import small_model

MODEL = small_model(end="2013-12-31", tune=Tune(trials=2, search={"learning_rate": between(0.1, 1.0)}))


def test_a_training_takes_the_best_of_the_search_before_it(platform, script, run_dag, requests_sent, tmp_path):
    facts = {"stage": "training_set", "model": "small", "fingerprint": "f", "spec_hash": "s", "code_version": "1"}
    made = tmp_path / "training_set.json"
    made.write_text(JobResult(**facts).model_dump_json())
    script(train={"metrics": {"best_validation_loss": 0.4}})
    common = {"model": MODEL, "platform": platform, "start": "2013-01-01", "end": "2013-03-31"}
    with DAG("tunes", schedule=None) as dag:
        tuned = TuneModelOperator(task_id="tune", inputs={"training_set": str(made)}, **common)
        inputs = {"training_set": str(made), "tune": tuned.output}
        TrainModelOperator(task_id="train", inputs=inputs, training_params="best", **common)
    _, states = run_dag(dag)
    assert states == {"tune": "success", "train": "success"}
    sent = requests_sent()
    study = sent["tune"]["params"]["study"]
    assert [(trial["state"], trial["value"]) for trial in study["trials"]] == [("complete", 0.4)] * 2
    assert all(0.1 <= trial["params"]["learning_rate"] <= 1.0 for trial in study["trials"])
    assert sent["train"]["params"] == {"training": "best"}
    assert sent["train"]["inputs"]["tune"].endswith("result.json")


def test_a_search_without_a_training_set_is_refused(platform, run_dag):
    with DAG("tunes_nothing", schedule=None) as dag:
        TuneModelOperator(task_id="tune", model=MODEL, platform=platform, start="2013-01-01", end="2013-03-31")
    _, states = run_dag(dag)
    assert states == {"tune": "failed"}
