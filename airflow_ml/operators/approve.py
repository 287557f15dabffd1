"""Asking a person whether a release may go on: Airflow's own approval, with a memory."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowSkipException, TaskAwaitingInput

from airflow_ml.hooks.platform import PlatformHook
from airflow_ml.lifecycle.approvals import Answer, run_that_asks
from airflow_ml.lifecycle.errors import AirflowMLError
from airflow_ml.lifecycle.releases import REPORT_TITLES
from airflow_ml.operators.asking import body_of, subject_of
from airflow_ml.operators.errors import as_airflow
from airflow_ml.operators.links import ReleaseRecordLink, ReportLink, release_report_url, release_url
from airflow_ml.operators.results import NOTE
from airflow_ml.operators.wishes import Mode, Wish
from airflow_ml.spec import Approval, Model, Platform

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_ml.hooks.releases import ReleaseRecord
    from airflow_ml.lifecycle.releases import Release


class ApproveReleaseOperator(ApprovalOperator):
    """Shows a person the gate report of a release, and asks.

    The answer is kept in the release record, bound to the report's hash. A retry, whose answer Airflow forgets, finds
    it there; so does another run that asks about the same report, if it was a yes. A release whose report changed is
    asked about again, and so is a rejected one when somebody clears the task or starts another run.

    A rejected release is no failure: what comes after is skipped, and the run's note says so.

    Args:
        model: The declaration; its `approval` says how long a person is asked, and what counts without an answer.
        version: Registry version, templated.
        mode: As of the release form, templated: nobody is asked before a rollback.
        inputs: ``{"register": …}`` of a training run in place of a version, and ``canary``: what a rollout that waits
            for this approval has returned.
        platform: Where things are; None asks Airflow's configuration.
        airflow_ml_conn_id: Connection of type ``airflow_ml``.
        **kwargs: As of Airflow's `ApprovalOperator`; ``assigned_users`` says who may answer.
    """

    template_fields: Sequence[str] = ("version", "mode", "inputs", "airflow_ml_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json"}
    operator_extra_links: "Sequence[BaseOperatorLink]" = (ReleaseRecordLink(), ReportLink())
    ui_color = "#fff4d6"

    def __init__(
        self,
        *,
        model: Model,
        version: str | int | None = None,
        mode: str = "",
        inputs: Mapping[str, Any] | None = None,
        platform: Platform | None = None,
        airflow_ml_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.approval = model.approval or Approval()
        asked: dict[str, Any] = {
            "subject": f"Release {model.name}?",
            "params": {
                "why": Param("", "Kept in the release record.", type="string", title="Why"),
                "approver": Param("", "Left out: the user who is logged in.", type="string", title="Your name"),
            },
            "defaults": [self.APPROVE if self.approval.otherwise == "approve" else self.REJECT],
            "response_timeout": timedelta(seconds=self.approval.deadline_s),
        }
        super().__init__(**(asked | kwargs))
        self.model = model
        self.version = version
        self.mode = mode
        self.inputs = dict(inputs or {})
        self.platform = platform
        self.airflow_ml_conn_id = airflow_ml_conn_id
        self.links: dict[str, str] = {}

    def execute(self, context: "Context") -> Any:
        """Find the answer, or ask."""
        try:
            record, release = self._wanted()
            if release is None:
                return {"needed": False}
            answer = record.answer(release, *_asker(context))
            self._link(context, release)
            if answer is not None:
                self.log.info("nobody is asked again: it was %s", answer)
                return super().execute_complete(context, self._event(answer))
            self._show(record, release)
        except AirflowMLError as error:
            raise as_airflow(error) from None
        try:
            super().execute(context)
        except TaskAwaitingInput as parked:
            # What was shown is what the answer is about, whatever the record says by then.
            parked.kwargs = {"shown": release.gate_report.sha256}
            raise

    def execute_complete(self, context: "Context", event: dict[str, Any], shown: str = "") -> Any:
        """Keep the answer, then skip or go on; ask again about a report that changed meanwhile."""
        if "error" in event:
            return super().execute_complete(context, event)
        # Who answers over REST may leave out what is optional; Airflow would lose the answer.
        event = {**event, "params_input": {"why": "", "approver": "", **(event["params_input"] or {})}}
        self.validate_chosen_options(event["chosen_options"])
        self.validate_params_input(event["params_input"])
        try:
            record, release = self._wanted()
            if release is None:
                return {"needed": False}
            answer = self._answer(context, release.version, shown, event)
            record.record(answer)
        except AirflowMLError as error:
            raise as_airflow(error) from None
        self.log.info("version %d, gate report %s: %s", release.version, shown[:12], answer)
        if release.gate_report.sha256 != shown:
            self.log.info("the gate report has changed since it was shown; it is asked about again")
            return self.execute(context)
        self._link(context, release)
        if not answer.approved:
            context["ti"].xcom_push(key=NOTE, value=f"{self.model.name} version {release.version}: {answer}")
        return super().execute_complete(context, event)

    def _wanted(self) -> "tuple[ReleaseRecord, Release | None]":
        """The release that is asked about; None where nobody is asked."""
        from airflow_ml.hooks.releases import ReleaseRecord

        record = ReleaseRecord(PlatformHook(self.airflow_ml_conn_id, self.platform).platform, self.model.name)
        registered, canary = self._summary("register"), self._summary("canary")
        if registered.get("verdict") == "rejected":
            raise AirflowSkipException(f"version {registered.get('version')} was rejected by its gates")
        if canary and not canary.get("open"):
            raise AirflowSkipException(f"version {canary.get('version')} waits for nobody: {canary.get('state')}")
        wish = Wish.of(record, version=self.version or registered.get("version"), mode=self.mode)
        return record, None if wish.mode is Mode.ROLLBACK else wish.release

    def _summary(self, stage: str) -> Mapping[str, Any]:
        given = self.inputs.get(stage)
        return given.get("summary", {}) if isinstance(given, Mapping) else {}

    def _show(self, record: "ReleaseRecord", release: "Release") -> None:
        ruling, canary = record.champion(), self._summary("canary")
        self.subject = subject_of(release)
        self.body = body_of(
            release,
            record.report(release),
            self.approval,
            datetime.now(UTC) + (self.response_timeout or timedelta(0)),
            {name.removeprefix("_link_"): address for name, address in self._pages.items()},
            champion=None if ruling in (None, release.version) else record.release(ruling),
            canary=f"It has {canary['share']:.0%} of the traffic: {canary.get('verdict_reason')}." if canary else "",
        )

    def _link(self, context: "Context", release: "Release") -> None:
        """The release record, and the reports that the version was registered with."""
        dag_id = context["ti"].dag_id
        self._pages = {"Release record": release_url(dag_id, self.model.name, release.version)}
        self.links = {ReleaseRecordLink().xcom_key: self._pages["Release record"]}
        for name in release.reports:
            page = release_report_url(dag_id, self.model.name, release.version, name)
            self._pages[REPORT_TITLES.get(name, name)] = page
            self.links.setdefault(ReportLink().xcom_key, page)
        for key, address in self.links.items():
            # Early, because a task that waits is when people look.
            context["ti"].xcom_push(key=key, value=address)

    def _answer(self, context: "Context", version: int, shown: str, event: Mapping[str, Any]) -> Answer:
        asker, cleared = _asker(context)
        user, said = event["responded_by_user"], event["params_input"]
        name = "" if user is None else str(user["name"])
        return Answer(
            version=version,
            gate_report=shown,
            option="approve" if event["chosen_options"] == [self.APPROVE] else "reject",
            by=str(said["approver"] or "") or name,
            user=name,
            why=str(said["why"] or ""),
            at=event["responded_at"],
            by_default=user is None,
            asker=asker,
            cleared=cleared,
        )

    def _event(self, answer: Answer) -> dict[str, Any]:
        """A recorded answer as Airflow would tell it."""
        return {
            "chosen_options": [self.APPROVE if answer.approved else self.REJECT],
            "params_input": {"why": answer.why, "approver": answer.by},
            "responded_at": answer.at,
            "responded_by_user": None if answer.by_default else {"id": answer.user, "name": answer.user},
        }


def _asker(context: "Context") -> tuple[str, int]:
    """A run, and how often it was cleared."""
    run = context["dag_run"]
    return run_that_asks(run.dag_id, run.run_id), run.clear_number or 0
