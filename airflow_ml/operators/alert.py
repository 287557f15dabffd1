"""The alert that a decision calls for, as a task: seen, retried and logged like the others."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from airflow_ml.lifecycle.alerts import of_decision
from airflow_ml.notifications import ModelAlertNotifier
from airflow_ml.operators.links import report_url
from airflow_ml.spec import Model, Platform

if TYPE_CHECKING:
    from airflow.sdk import Context


class SendAlertOperator(BaseOperator):
    """Tells people that a retraining started, or that the input is broken.

    A repeated run of an old window does not tell again that its retraining started.

    Args:
        model: The declaration.
        decision: What `DecideRetrainingOperator` returned, templated.
        monitoring: What `MonitorModelOperator` returned, templated: its report is linked.
        started: Id of the training run that this run has started, templated; empty for none.
        platform: Where things are; None asks Airflow's configuration.
        airflow_ml_conn_id: Connection of type ``airflow_ml``.
    """

    template_fields: Sequence[str] = ("decision", "monitoring", "started", "airflow_ml_conn_id")
    ui_color = "#fdeceb"

    def __init__(
        self,
        *,
        model: Model,
        decision: Mapping[str, Any] | Any,
        monitoring: Mapping[str, Any] | Any = None,
        started: str | None = None,
        platform: Platform | None = None,
        airflow_ml_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.decision = decision
        self.monitoring = monitoring
        self.started = started
        self.platform = platform
        self.airflow_ml_conn_id = airflow_ml_conn_id

    def execute(self, context: "Context") -> dict[str, str]:
        """Send, or skip when there is nothing to say or nobody to tell."""
        summary = self.decision["summary"]
        message = of_decision(self.model.name, summary, self._report(context))
        if message is None:
            raise AirflowSkipException(f"nothing to say: {summary['decision']}")
        if summary["decision"] == "retrain" and not self.started:
            raise AirflowSkipException(f"run {summary['run_id']} was started before")
        if not ModelAlertNotifier(self.model.name, self.platform, self.airflow_ml_conn_id).send(message):
            raise AirflowSkipException("the platform names no recipients: set smtp_conn_id and alerts_to")
        self.log.info("sent: %s", message.subject)
        return {"subject": message.subject}

    def _report(self, context: "Context") -> str:
        seen = self.monitoring
        if not seen or not seen["reports"]:
            return ""
        return report_url(context["ti"].dag_id, self.model.name, seen["request"], seen["reports"][0])
