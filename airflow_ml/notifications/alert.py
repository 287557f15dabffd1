"""Sends a model's alerts through the SMTP provider."""

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier
from airflow.sdk.exceptions import AirflowSensorTimeout

from airflow_ml.hooks.platform import PlatformHook
from airflow_ml.lifecycle.alerts import Message, input_broken, of_decision, of_rollout
from airflow_ml.lifecycle.errors import BadFile, DataBroken, InputError, MissingPartition
from airflow_ml.spec import Platform

if TYPE_CHECKING:
    from airflow.sdk import Context


_BROKEN = {kind.__name__ for kind in (BadFile, DataBroken, MissingPartition)}


class ModelAlertNotifier(BaseNotifier):
    """A callback of a model's tasks, or a sender for an operator.

    As ``on_failure_callback`` of a task that reads a source, or waits for it, it says that the input is broken, if that
    is why the task failed: a full disk or a killed job is no message about data. As ``on_success_callback`` of
    `DecideRetrainingOperator` it sends what the decision calls for, and of a rollout, that it went back. Without
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
        if error is None:
            result = ti.xcom_pull(task_ids=ti.task_id)
            if not result:
                return None
            calls = of_rollout if result.get("stage") == "rollout" else of_decision
            return calls(self.model, result["summary"], {"Task log": ti.log_url})
        # The text of a stage's error begins with its class (see `operators.errors`). Where a dead task's callback runs
        # there is only the text; in the task itself the stage's own error is the exception's context.
        kind, _, text = str(error).partition(": ")
        late = isinstance(error, AirflowSensorTimeout)
        if kind not in _BROKEN and not late:
            return None
        said = getattr(error, "__context__", None)
        told = said if isinstance(said, InputError) else InputError(str(error) if late else text)
        return input_broken(
            self.model, self._window(context), None, (told.what,), {}, _links(context), told.where, told.remedy
        )

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
        """What the task asked for, which need not be the run's own days; a dead task cannot say it."""
        asked = getattr(context["ti"].task, "asked", None)
        if asked is not None:
            return str(asked)
        params = context.get("params") or {}
        first = params.get("from") or context.get("ds") or "unknown"
        last = params.get("to") or first
        return str(first) if first == last else f"{first}..{last}"


def _links(context: "Context") -> dict[str, str]:
    """The page of the refusal, if there is one, and the task's log."""
    ti = context["ti"]
    page = getattr(ti.task, "page", "")
    return ({"Report": page} if page else {}) | {"Task log": ti.log_url}
