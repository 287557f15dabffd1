"""The alert that a decision calls for, as a task: seen, retried and logged like the others."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, conf
from airflow.sdk.exceptions import AirflowSkipException

from airflow_ml.lifecycle.alerts import of_decision
from airflow_ml.notifications import ModelAlertNotifier
from airflow_ml.operators.links import report_links, run_page
from airflow_ml.spec import Model, Platform

if TYPE_CHECKING:
    from airflow.sdk import Context


class SendAlertOperator(BaseOperator):
    """Tells people that a retraining started, or that the input is broken.

    A repeated run of an old window does not tell again that its retraining started. A retraining of an earlier window
    whose trigger was lost is told when it is sent again.

    Args:
        model: The declaration.
        decision: What `DecideRetrainingOperator` returned, templated.
        monitoring: What `MonitorModelOperator` returned, templated: its reports are linked.
        started: Id of the training run that this run has started, templated; empty for none.
        resent: Id of the training run of an earlier window that this run has started, templated; empty for none.
        platform: Where things are; None asks Airflow's configuration.
        airflow_ml_conn_id: Connection of type ``airflow_ml``.
    """

    template_fields: Sequence[str] = ("decision", "monitoring", "started", "resent", "airflow_ml_conn_id")
    ui_color = "#fdeceb"

    def __init__(
        self,
        *,
        model: Model,
        decision: Mapping[str, Any] | Any,
        monitoring: Mapping[str, Any] | Any = None,
        started: str | None = None,
        resent: str | None = None,
        platform: Platform | None = None,
        airflow_ml_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.decision = decision
        self.monitoring = monitoring
        self.started = started
        self.resent = resent
        self.platform = platform
        self.airflow_ml_conn_id = airflow_ml_conn_id

    def execute(self, context: "Context") -> dict[str, str]:
        """Send, or skip when there is nothing to say or nobody to tell."""
        summary = self.decision["summary"]
        messages = [
            message
            for decided in self._told(summary)
            if (message := of_decision(self.model.name, decided, self._links(context, decided))) is not None
        ]
        if not messages:
            raise AirflowSkipException(f"nothing new to say: {summary['decision']}")
        if not conf.get("api", "base_url", fallback=""):
            self.log.warning("links of this message lead nowhere outside Airflow: set [api] base_url")
        notifier = ModelAlertNotifier(self.model.name, self.platform, self.airflow_ml_conn_id)
        for message in messages:
            # Whoever reads this log sees what was to be told, also where nobody gets mail.
            self.log.info("%s\n\n%s", message.subject, message.text)
        sent = [notifier.send(message) for message in messages]
        if not all(sent):
            raise AirflowSkipException("nobody was told: set smtp_conn_id and alerts_to of the platform")
        return {"subject": "; ".join(message.subject for message in messages)}

    def _told(self, summary: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """What was decided now, unless its run was started before; and an earlier retraining that was sent again."""
        if summary["decision"] != "retrain" or self.started:
            yield summary
        for training in summary.get("resend") or ():
            if self.resent == training["run_id"]:
                reasons = (f"its trigger was lost; it was decided for the window that ended {_ended(training)}",)
                yield {**summary, **training, "decision": "retrain", "reasons": reasons, "numbers": {}}

    def _links(self, context: "Context", decided: Mapping[str, Any]) -> dict[str, str]:
        """The reports, the training run that was started, and the run that decided."""
        ti, seen, links = context["ti"], self.monitoring, {}
        if seen:
            reports = report_links(ti.dag_id, self.model.name, seen["request"], seen["reports"])
            links = {link.name: url for link, url in reports}
        if decided["decision"] == "retrain":
            links["Training run"] = run_page(f"{self.model.name}_training", str(decided["run_id"]))
        return links | {"Monitoring run": run_page(ti.dag_id, ti.run_id)}


def _ended(training: Mapping[str, Any]) -> str:
    return str(training["run_id"]).partition("__")[2]
