"""The note of a run as the scheduler writes it: in the transaction in which it ends the run."""

import pytest

from airflow_ml.pipelines import model_dags

CONF = {"from": "2013-01-01", "to": "2013-03-01"}
NOTE = "airflow-ml: small: rejected\n- roc_auc 0.6 < 0.7"


@pytest.fixture
def ended(model, platform, script, run_dag):
    """A run whose tasks have ended with a refusal, and that the scheduler has not looked at since."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState

    verdict = {"verdict": "rejected", "reasons": ["roc_auc 0.6 < 0.7"]}
    script(gates={"summary": verdict}, register={"summary": verdict | {"version": 3}})
    run, _ = run_dag(model_dags(model, platform)["small_training"], run_conf=CONF)
    with create_session() as session:
        found = session.get(DagRun, run.id)
        found.note, found.state = "ann looks at it", DagRunState.RUNNING
    return run.id


@pytest.mark.parametrize("committed", [True, False])
def test_a_refusal_is_noted_in_the_schedulers_own_transaction(ended, committed):
    from airflow.models.dagbag import DBDagBag
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        run = session.get(DagRun, ended)
        run.dag = DBDagBag().get_latest_version_of_dag(run.dag_id, session=session)
        run.update_state(session=session, execute_callbacks=False)
        assert str(run.state) == "success"
        if not committed:
            session.rollback()
    with create_session() as session:
        run = session.get(DagRun, ended)
        seen = (str(run.state), run.note)
    assert seen == (("success", f"ann looks at it\n\n{NOTE}") if committed else ("running", "ann looks at it"))
