"""Starting the training that a decision asks for, exactly once."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowSkipException

from airflow_ml.operators.links import TrainingRunLink, run_page

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

STARTED = "started"
"""XCom key: id of the run that this task has started, empty for none."""

STARTER = "triggered_by"
"""Key in the conf of a training run: the run that has started it."""

_LONGEST_NOTE = 500
"""Characters; Airflow holds 1000, and the verdict of the run comes after it."""


class TriggerTrainingOperator(TriggerDagRunOperator):
    """Triggers ``drift__<window end>`` of a model's training DAG.

    The run's id is its identity: a run that is there is left alone, whoever started it. One that has failed is started
    again when its own window is decided again (somebody cleared this run), not when a later window only mentions it.
    A run that an earlier try of this task has started, before it was killed, counts as started by this task: its conf
    names who started it.

    Args:
        decision: What `DecideRetrainingOperator` returned, templated.
        resend: Look at the runs of earlier windows, whose trigger a crash may have lost, instead of this window's own.
        **kwargs: As of `TriggerDagRunOperator`.
    """

    template_fields: Sequence[str] = (*TriggerDagRunOperator.template_fields, "decision")
    operator_extra_links: "list[BaseOperatorLink]" = [TrainingRunLink()]  # noqa: RUF012 - as its base declares it

    def __init__(self, *, decision: Mapping[str, Any] | Any, resend: bool = False, **kwargs: Any) -> None:
        super().__init__(logical_date=None, **kwargs)
        self.decision = decision
        self.resend = resend
        self.links: dict[str, str] = {}

    def execute(self, context: "Context") -> None:
        """Skip when there is nothing to start."""
        ti, training = context["ti"], self._training()
        ti.xcom_push(key=STARTED, value="")
        if training is None:
            raise AirflowSkipException(f"nothing to start: {self.decision['summary']['decision']}")
        run_id = str(training["run_id"])
        self.links = {TrainingRunLink().xcom_key: run_page(self.trigger_dag_id, run_id)}
        starter = _starter(context)
        if ti.get_dr_count(dag_id=self.trigger_dag_id, run_ids=[run_id]):
            if _conf_of(self.trigger_dag_id, run_id).get(STARTER) == starter:
                self.log.info("run %s was started by an earlier try of this task", run_id)
                ti.xcom_push(key=STARTED, value=run_id)
                return
            failed = ti.get_dr_count(dag_id=self.trigger_dag_id, run_ids=[run_id], states=["failed"])
            if self.resend or not failed:
                raise AirflowSkipException(f"run {run_id} of {self.trigger_dag_id} is there")
            self.log.info("run %s has failed before; it is cleared and runs again", run_id)
            self.reset_dag_run = True
        else:
            # Should somebody else start it right now, finding it there is as good.
            self.skip_when_already_exists = True
        self.trigger_run_id = run_id
        self.conf = {"from": training["window"]["from"], "to": training["window"]["to"], STARTER: starter}
        reasons = "; ".join(map(str, self.decision["summary"].get("reasons", ())))
        self.note = ("sent again: its trigger was lost" if self.resend else reasons)[:_LONGEST_NOTE]
        ti.xcom_push(key=STARTED, value=run_id)
        super().execute(context)

    def _training(self) -> Mapping[str, Any] | None:
        """The run that has to exist: id and window."""
        summary = self.decision["summary"]
        if self.resend:
            again = summary.get("resend") or [None]
            return again[0]  # type: ignore[no-any-return]
        if summary["decision"] != "retrain":
            return None
        return {"run_id": summary["run_id"], "window": summary["window"]}


def _starter(context: "Context") -> dict[str, Any]:
    """Who starts: a run that was cleared starts anew, and does not tell again of what it has started before."""
    run = context["dag_run"]
    return {"dag_id": run.dag_id, "run_id": run.run_id, "clear_number": run.clear_number}


def _conf_of(dag_id: str, run_id: str) -> dict[str, Any]:
    """The conf of a run that exists; a task instance can ask for its state only."""
    from airflow.sdk.execution_time.comms import DagRunResult, GetDagRun
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    found = SUPERVISOR_COMMS.send(GetDagRun(dag_id=dag_id, run_id=run_id))
    return (found.conf or {}) if isinstance(found, DagRunResult) else {}
