"""Sends a model's alerts through the SMTP provider."""

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

from airflow_ml.hooks.platform import PlatformHook
from airflow_ml.lifecycle.alerts import Message, input_broken, of_decision
from airflow_ml.lifecycle.errors import BadFile, DataBroken, MissingPartition
from airflow_ml.spec import Platform

if TYPE_CHECKING:
    from airflow.sdk import Context


_BROKEN = {kind.__name__ for kind in (BadFile, DataBroken, MissingPartition)}


class ModelAlertNotifier(BaseNotifier):
    """A callback of a model's tasks, or a sender for an operator.

    As ``on_failure_callback`` of a task that reads a source it says that the input is broken, if that is why the task
    failed: a full disk or a killed job is no message about data. As
    ``on_success_callback`` of `DecideRetrainingOperator` it sends what the decision calls for. Without
    ``alerts.smtp_conn_id`` and recipients in the platform it sends nothing.

    Args:
        model: Name.
        platform: Where things are; None asks Airflow's configuration.
        airflow_ml_conn_id: Connection of type ``airflow_ml``.
    """

    def __init__(
        self, model: str, platform: Platform | None = None, airflow_ml_conn_id: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.platform = platform
        self.airflow_ml_conn_id = airflow_ml_conn_id

    def notify(self, context: "Context") -> None:
        """Send the message of a task's end."""
        message = self.message(context)
        if message is not None:
            self.send(message)

    def message(self, context: "Context") -> Message | None:
        """What the task's end calls for."""
        ti = context["ti"]
        error = context.get("exception")
        if error is not None:
            # The text of a stage's error begins with its class (see `operators.errors`); the object may be gone.
            if str(error).partition(":")[0] not in _BROKEN:
                return None
            window = self._window(context)
            return input_broken(
                self.model, window, None, (f"{ti.task_id}: {error}",), {}, str(getattr(ti, "log_url", ""))
            )
        result = ti.xcom_pull(task_ids=ti.task_id)
        return of_decision(self.model, result["summary"]) if result else None

    def send(self, message: Message) -> bool:
        """Send it; False when the platform names nobody.

        Raises:
            Exception: Of the SMTP provider.
        """
        alerts = PlatformHook(self.airflow_ml_conn_id, self.platform).platform.alerts
        if not alerts.smtp_conn_id or not alerts.to:
            return False
        from airflow.providers.smtp.hooks.smtp import SmtpHook

        with SmtpHook(smtp_conn_id=alerts.smtp_conn_id) as smtp:
            smtp.send_email_smtp(
                to=list(alerts.to), subject=message.subject, html_content=message.html, from_email=alerts.sender
            )
        return True

    def _window(self, context: "Context") -> str:
        params = context.get("params") or {}
        first = params.get("from") or context.get("ds") or "unknown"
        last = params.get("to") or first
        return str(first) if first == last else f"{first}..{last}"
