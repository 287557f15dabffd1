"""`StageOperator`: a task that sends one request to a compute, waits for it, and keeps the result."""

import importlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, conf

from airflow_ml.compute import Compute, Handle, JobState, Phase, follow, wait
from airflow_ml.compute.base import TIMEOUT_S
from airflow_ml.compute.exchange import read_response, take
from airflow_ml.compute.local import die_with_parent
from airflow_ml.hooks.platform import PlatformHook
from airflow_ml.hooks.windows import FROM_RUN, TO_RUN, rendered_window
from airflow_ml.lifecycle.errors import AirflowMLError, JobFailed
from airflow_ml.lifecycle.logs import masked, split_level
from airflow_ml.lifecycle.requests import Coordinates, JobRequest, JobResult
from airflow_ml.lifecycle.windows import Window
from airflow_ml.operators.errors import as_airflow
from airflow_ml.operators.links import MLflowRunLink, ModelVersionLink, ReportLink, links_of, report_url, url_in_log
from airflow_ml.operators.results import NOTE, note_of, to_xcom
from airflow_ml.spec import Model, Platform

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context


class StageOperator(BaseOperator):
    """Runs a stage for a model.

    A retry, a cleared task and a repeated run cost little: a request whose result exists returns it.

    Args:
        model: The declaration.
        start: First partition, templated; the default is ``params.from``, else the run's logical date.
        end: Last partition, templated; the default is ``params.to``, else ``params.from``, else the run's logical date.
        inputs: Stage name to what its operator returned (``operator.output``) or to the URI of its result; a stage that
            is not named is found by its fingerprint.
        stage_params: Parameters of the stage.
        platform: Where things are; None asks Airflow's configuration when the task runs.
        airflow_ml_conn_id: Connection of type ``airflow_ml`` that describes the platform.
        compute: Kind of the compute, ``local`` or ``kubernetes``, for a task that does not run where the platform runs
            its stage.
        deferrable: Whether to leave the worker while a job runs. It does so where the job outlives its task; a local
            process ends with its task and is always waited for in the worker.
    """

    stage: ClassVar[str]
    noted: ClassVar[bool] = False
    """Whether the verdict or decision of this stage becomes the note of the DAG run."""
    window_start: ClassVar[str] = FROM_RUN
    window_end: ClassVar[str] = TO_RUN

    template_fields: Sequence[str] = ("start", "end", "inputs", "stage_params", "airflow_ml_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json", "stage_params": "json"}
    operator_extra_links: "Sequence[BaseOperatorLink]" = (ReportLink(), MLflowRunLink(), ModelVersionLink())
    ui_color = "#e8f0fb"

    def __init__(
        self,
        *,
        model: Model,
        start: str | None = None,
        end: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        stage_params: Mapping[str, Any] | None = None,
        platform: Platform | None = None,
        airflow_ml_conn_id: str | None = None,
        compute: str | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.start = self.window_start if start is None else start
        self.end = self.window_end if end is None else end
        self.inputs = dict(inputs or {})
        self.stage_params = dict(stage_params or {})
        self.platform = platform
        self.airflow_ml_conn_id = airflow_ml_conn_id
        self.compute = compute
        self.deferrable = deferrable
        self.links: dict[str, str] = {}
        # For the message about a failure: the partitions that were asked for, and the page of a refusal.
        self.asked: Window | None = None
        self.page = ""
        self._job: tuple[Compute, Handle] | None = None
        self._killed = False

    def execute(self, context: "Context") -> dict[str, Any]:
        """Send the request, wait, and return what later tasks need."""
        return self.finish(context, *self.run_stage(context))

    def resume(self, context: "Context", event: dict[str, Any]) -> dict[str, Any]:
        """Go on when the trigger has seen the job end."""
        return self.finish(context, *self.job_ended(context, event))

    def run_stage(self, context: "Context") -> tuple[Platform, JobResult, Handle]:
        """Send the request and wait."""
        hook = PlatformHook(self.airflow_ml_conn_id, self.platform)
        try:
            request = self.request(context, hook.platform)
            compute = hook.compute(self.stage, self.compute)
            if not compute.outlives_task and self.deferrable:
                self.log.info("the job ends with its task, so the task waits for it in the worker")
            go_with_supervisor(compute)
            secrets = hook.secrets(self.stage)
            handle = compute.submit(request, secrets, self._timeout_s())
            self._job = compute, handle
            if self._killed:
                # While it was submitted: nobody else will end it.
                compute.cancel(handle, wait=False)
            self.log.info("stage %s of %s%s: %s", self.stage, self.model.name, _of(request.window), handle.folder)
            if handle.job is not None:
                self.log.info("job %s in namespace %s", handle.job.name, handle.job.namespace)
            if self.deferrable and compute.trigger is not None:
                # A trigger that fires at once may fail its task (apache/airflow #71580): look before leaving.
                state = compute.poll(handle)
                if state.phase is Phase.RUNNING:
                    self._leave(compute.trigger, compute, handle, hook.platform)
                result = self._ended(state)
            else:
                result = wait(compute, handle, self._teller(context, hook.platform, secrets.values()))
        except AirflowMLError as error:
            if self._job is not None:
                self._link_pages(context, error, self._job[1])
            raise as_airflow(error) from None
        take(handle.folder)
        return hook.platform, result, handle

    def job_ended(self, context: "Context", event: dict[str, Any]) -> tuple[Platform, JobResult, Handle]:
        """What the job has left that a trigger saw end."""
        hook = PlatformHook(self.airflow_ml_conn_id, self.platform)
        job = Handle.model_validate(event["handle"])
        try:
            if event["status"] == "timeout":
                raise JobFailed(
                    f"the job was ended after the task's execution_timeout of {self._timeout_s():.0f} s",
                    where=job.folder,
                    remedy="raise execution_timeout; a retry goes on from the last checkpoint",
                )
            if event["status"] == "error":
                raise AirflowMLError.from_dict(event)
            self.asked = self.window(context, hook.platform)
            if event["status"] == "taken":
                raise JobFailed("another try of this task has taken the job over", remedy="see that try")
            response = read_response(job.folder) if event["answered"] else None
            result = self._ended(JobState(Phase.ENDED, event["code"], response, event["detail"], event["remedy"]))
        except AirflowMLError as error:
            self._link_pages(context, error, job)
            raise as_airflow(error) from None
        take(job.folder)
        return hook.platform, result, job

    def _leave(self, path: str, compute: Compute, handle: Handle, platform: Platform) -> None:
        """Give the worker back until the job has ended."""
        module, _, name = path.rpartition(".")
        trigger = getattr(importlib.import_module(module), name)
        job, spec = handle.model_dump(mode="json"), compute.spec.model_dump(mode="json")
        deadline, connections = time.time() + self._timeout_s(), list(platform.connections.values())
        self.defer(trigger=trigger(job, spec, deadline, connections), method_name="resume")

    def _ended(self, state: JobState) -> JobResult:
        following = follow(state)
        if following.error is not None:
            raise following.error
        if following.result is None:
            raise JobFailed("the job still runs", remedy="a retry goes on waiting for it")
        return following.result

    def _timeout_s(self) -> float:
        return TIMEOUT_S if self.execution_timeout is None else self.execution_timeout.total_seconds()

    def request(self, context: "Context", platform: Platform) -> JobRequest:
        """The request of this task."""
        ti = context["ti"]
        self.asked = self.window(context, platform)
        return JobRequest(
            stage=self.stage,
            model=self.model,
            platform=platform,
            window=self.asked,
            params=self.parameters(context),
            inputs={
                stage: given if isinstance(given, str) else given["uri"]
                for stage, given in self.inputs.items()
                if given
            },
            coordinates=Coordinates(
                dag_id=ti.dag_id,
                task_id=ti.task_id,
                run_id=ti.run_id,
                map_index=-1 if ti.map_index is None else ti.map_index,
                try_number=ti.try_number,
                task_instance=str(ti.id),
            ),
        )

    def window(self, context: "Context", platform: Platform) -> Window | None:
        """The partitions of this task."""
        return rendered_window(self.model, self.start, self.end)

    def parameters(self, context: "Context") -> dict[str, Any]:
        """Stage parameters; empty values are left out, as templates of params that nobody set render to them."""
        return {name: value for name, value in self.stage_params.items() if value not in (None, "")}

    def finish(self, context: "Context", platform: Platform, result: JobResult, handle: Handle) -> dict[str, Any]:
        """Links, the note for the run, and the XCom."""
        ti = context["ti"]
        self.links |= links_of(result, platform, ti.dag_id, handle.id)
        note = note_of(result) if self.noted else None
        if note is not None:
            ti.xcom_push(key=NOTE, value=note)
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {
                "stage": self.stage,
                "window": str(result.window or ""),
                "uri": result.uri,
            }
        return to_xcom(result, handle.id)

    def _link_pages(self, context: "Context", error: AirflowMLError, handle: Handle) -> None:
        """The page of a refusal; Airflow stores the links of tasks that succeed only."""
        for report in list(error.reports)[:1]:
            link, ti = ReportLink().xcom_key, context["ti"]
            self.page = self.links[link] = report_url(ti.dag_id, self.model.name, handle.id, report)
            ti.xcom_push(key=link, value=self.page)
            self.log.error("what is wrong is shown at %s", self.page)

    def on_kill(self) -> None:
        """Ask the job to end; `execute` then finds it ended. Called in a signal handler, so nothing waits here."""
        self._killed = True
        if self._job is not None:
            compute, handle = self._job
            compute.cancel(handle, wait=False)

    def _teller(self, context: "Context", platform: Platform, secrets: Iterable[str]) -> Callable[[str], None]:
        """Takes the lines of the job: to the task's log, and the link to a run in MLflow as soon as it is named."""

        def tell(line: str) -> None:
            level, text = split_level(masked(line, secrets))
            self.log.log(level, "%s", text)
            url = url_in_log(text, platform)
            if url is not None:
                link = MLflowRunLink().xcom_key
                self.links[link] = url
                context["ti"].xcom_push(key=link, value=url)

        return tell


def _of(window: Window | None) -> str:
    return f", {window}" if window else ""


def go_with_supervisor(compute: Compute) -> None:
    """A job that ends with its task must not outlive the task's supervisor, which the task itself would."""
    if not compute.outlives_task and _under_supervisor():
        die_with_parent()


def _under_supervisor() -> bool:
    """Whether this process is a task's own: `airflow dags test` runs tasks in the process of the command."""
    from airflow.sdk.execution_time import comms, task_runner

    return isinstance(getattr(task_runner, "SUPERVISOR_COMMS", None), comms.CommsDecoder)
