"""Starting the training that a decision asks for, exactly once."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowSkipException

if TYPE_CHECKING:
    from airflow.sdk import Context


_LONGEST_NOTE = 500
"""Characters; Airflow holds 1000, and the verdict of the run comes after it."""


class TriggerTrainingOperator(TriggerDagRunOperator):
    """Triggers ``drift__<window end>`` of a model's training DAG.

    The run's id is its identity: a run that is there is left alone, whoever started it. One that has failed is started
    again when its own window is decided again (somebody cleared this run), not when a later window only mentions it.

    Args:
        decision: What `DecideRetrainingOperator` returned, templated.
        resend: Look at the runs of earlier windows, whose trigger a crash may have lost, instead of this window's own.
        **kwargs: As of `TriggerDagRunOperator`.
    """

    template_fields: Sequence[str] = (*TriggerDagRunOperator.template_fields, "decision")

    def __init__(self, *, decision: Mapping[str, Any] | Any, resend: bool = False, **kwargs: Any) -> None:
        super().__init__(logical_date=None, **kwargs)
        self.decision = decision
        self.resend = resend

    def execute(self, context: "Context") -> None:
        """Skip when there is nothing to start."""
        summary = self.decision["summary"]
        own = (
            {"run_id": summary.get("run_id"), "window": summary.get("window")}
            if summary["decision"] == "retrain"
            else None
        )
        wanted = list(summary.get("resend", ())) if self.resend else [own] if own else []
        if not wanted:
            raise AirflowSkipException(f"nothing to start: {summary['decision']}")
        training = wanted[0]
        ti, run_id = context["ti"], str(training["run_id"])
        if ti.get_dr_count(dag_id=self.trigger_dag_id, run_ids=[run_id]):
            failed = ti.get_dr_count(dag_id=self.trigger_dag_id, run_ids=[run_id], states=["failed"])
            if self.resend or not failed:
                raise AirflowSkipException(f"run {run_id} of {self.trigger_dag_id} is there")
            self.log.info("run %s has failed before; it is cleared and runs again", run_id)
            self.reset_dag_run = True
        else:
            # Should another run trigger it right now, finding it there is as good.
            self.skip_when_already_exists = True
        self.trigger_run_id = run_id
        self.conf = {"from": training["window"]["from"], "to": training["window"]["to"]}
        why = "sent again: its trigger was lost" if self.resend else "; ".join(map(str, summary.get("reasons", ())))
        self.note = why[:_LONGEST_NOTE]
        super().execute(context)
