"""Taking a release to its traffic, and back: the stage `rollout`, run again and again until there is nothing to do.

A run of the stage does what needs no waiting. What follows it is one pure decision, `pause_after`; the loop in the
worker and the trigger differ only in how they wait.
"""

import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.exceptions import AirflowSkipException, AirflowTaskTimeout

from airflow_ml.compute import Handle
from airflow_ml.hooks.platform import PlatformHook
from airflow_ml.lifecycle.errors import AirflowMLError, JobFailed, SpecError
from airflow_ml.lifecycle.requests import JobResult
from airflow_ml.lifecycle.windows import Window
from airflow_ml.operators.errors import as_airflow
from airflow_ml.operators.links import ReleaseRecordLink, release_url
from airflow_ml.operators.results import NOTE
from airflow_ml.operators.training import TrainingOperator
from airflow_ml.operators.wishes import Mode, Wish, parse_steps
from airflow_ml.spec import Platform
from airflow_ml.triggers.rollout import RolloutTrigger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow.sdk import BaseOperatorLink, Context

WORTH_LEAVING_S = 10.0
"""A shorter pause is spent in the worker: a trigger that fires within seconds may fail its task (apache/airflow
#71580), and a task that resumes costs more than that."""

_SLICE_S = 0.5
_SHORTEST_S = 1.0


def pause_after(summary: Mapping[str, Any], until_approval: bool = False) -> float | None:
    """How long to wait before the stage is run again; None when it is over.

    Args:
        summary: Of the stage's result.
        until_approval: A rollout that waits for a person is over, too: somebody else goes on.
    """
    if not summary["open"] or (until_approval and summary.get("waits_for") == "approval"):
        return None
    return max(float(summary["look_again_s"]), _SHORTEST_S)


@dataclass(frozen=True)
class _Run:
    """A run of the stage that has ended."""

    platform: Platform
    result: JobResult
    handle: Handle


class RolloutModelOperator(TrainingOperator):
    """A version into production: loaded, probed, given more and more of the traffic, judged, promoted, and watched.

    With ``inputs={"register": …}`` it rolls out what a training run has registered, and is skipped when the gates
    rejected it. With ``stage_params={"version": n}`` a person does; ``mode`` (declared, canary, shadow, at_once,
    rollback), ``steps``, ``by`` and ``reason`` say how, who and why. A release that is rolled back is no failure: the
    result and the run's note say so.

    However the task ends, the rollout's record says how far it is, and the next run goes on from there. Somebody who
    stops the task (marks it, clears it, deletes its run) gets what the model's `Canary.interrupted` declares: the next
    run continues, or all traffic is back on the stable version at once.

    Args:
        until_approval: End, and succeed, as soon as the rollout waits for a person's approval.
        **kwargs: As of `StageOperator`. ``execution_timeout`` is for the whole rollout, waiting included;
            ``deferrable`` is about the time between two runs of the stage.
    """

    stage: ClassVar[str] = "rollout"
    operator_extra_links: "Sequence[BaseOperatorLink]" = (*TrainingOperator.operator_extra_links, ReleaseRecordLink())
    mode: ClassVar[Mode | None] = None
    """Given by the class, and not by the parameters."""

    def __init__(self, *, until_approval: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.until_approval = until_approval
        self._deadline = 0.0
        self._stopped = False

    # what is asked for

    def window(self, context: "Context", platform: Platform) -> Window | None:
        """That of the training run; by hand there is none."""
        return super().window(context, platform) if self.inputs.get("register") else None

    def parameters(self, context: "Context") -> dict[str, Any]:
        """The stage's, with steps as numbers and the mode of the class.

        Raises:
            SpecError: One means nothing.
        """
        given = super().parameters(context)
        steps = parse_steps(given.pop("steps", None))
        return given | ({} if steps is None else {"steps": steps}) | ({} if self.mode is None else {"mode": self.mode})

    def request(self, context: "Context", platform: Platform) -> Any:
        """Checked before any work, where a person asks: a training run asks for what it has registered itself."""
        if not self.inputs.get("register"):
            from airflow_ml.hooks.releases import ReleaseRecord

            given = self.parameters(context)
            wished = {name: given.get(name) for name in ("version", "mode", "steps")}
            Wish.of(ReleaseRecord(platform, self.model.name), **wished)
        request = super().request(context, platform)
        # Only what the stage looks for: the canary task of the same run is none of its inputs.
        return request.model_copy(update={"inputs": {k: v for k, v in request.inputs.items() if k == "register"}})

    # its course

    def execute(self, context: "Context") -> dict[str, Any]:
        """Skip what was rejected or is over; roll out the rest."""
        self._skip_what_is_over()
        self._deadline = time.time() + self._timeout_s()
        with self._interruptible():
            return self._go_on(context, _Run(*self.run_stage(context)))

    def resume(self, context: "Context", event: dict[str, Any]) -> dict[str, Any]:
        """The stage ran in a cluster, and has ended."""
        self._deadline = time.time() + self._timeout_s()
        with self._interruptible():
            return self._go_on(context, _Run(*self.job_ended(context, event)))

    def look_again(self, context: "Context", event: Mapping[str, Any]) -> dict[str, Any]:
        """The trigger has waited long enough, or has seen that something changed."""
        self._deadline = float(event["deadline"])
        with self._interruptible():
            self._require_time()
            return self._go_on(context, _Run(*self.run_stage(context)))

    def _go_on(self, context: "Context", run: _Run) -> dict[str, Any]:
        self._link(context, run)
        while (pause := pause_after(run.result.summary, self.until_approval)) is not None:
            self._tell(run.result.summary, pause)
            self._wait(run, pause)
            self._require_time()
            run = _Run(*self.run_stage(context))
        return self.finish(context, run.platform, run.result, run.handle)

    def _wait(self, run: _Run, pause: float) -> None:
        """In the triggerer, or here; somebody else's change to the record ends the wait."""
        from airflow_ml.hooks.releases import ReleaseRecord

        summary, record = run.result.summary, ReleaseRecord(run.platform, self.model.name)
        mark, until = record.mark(), min(time.time() + pause, self._deadline)
        if record.revision() != summary["revision"]:
            return
        if self.deferrable and until - time.time() >= WORTH_LEAVING_S:
            self.defer(
                trigger=RolloutTrigger(
                    platform=run.platform.model_dump(mode="json"),
                    model=self.model.name,
                    release=summary["release"],
                    mark=list(mark),
                    until=until,
                    deadline=self._deadline,
                ),
                method_name="look_again",
            )
        while time.time() < until and record.mark() == mark and not self._stopped:
            time.sleep(_SLICE_S)
        if self._stopped:
            raise as_airflow(JobFailed("the task was stopped", remedy="the next run goes on from the rollout's record"))

    def _require_time(self) -> None:
        if time.time() >= self._deadline:
            raise AirflowTaskTimeout(
                f"the rollout has not ended within the task's execution_timeout of {self._timeout_s():.0f} s"
            )

    def _skip_what_is_over(self) -> None:
        registered, canary = self._summary("register"), self._summary("canary")
        if registered.get("verdict") == "rejected":
            reasons = "; ".join(str(reason) for reason in registered.get("reasons", ())) or "see the gate report"
            raise AirflowSkipException(f"version {registered.get('version')} was rejected by its gates: {reasons}")
        if canary and not canary.get("open"):
            raise AirflowSkipException(f"the rollout of version {canary.get('version')} is over: {canary.get('state')}")

    def _summary(self, stage: str) -> Mapping[str, Any]:
        given = self.inputs.get(stage)
        return given.get("summary", {}) if isinstance(given, Mapping) else {}

    # being stopped

    def on_kill(self) -> None:
        """End the job; what becomes of the traffic is seen to when `execute` finds it ended."""
        self._stopped = True
        super().on_kill()

    @contextmanager
    def _interruptible(self) -> "Iterator[None]":
        """Whoever stops the task, or lets its time run out, gets what the model declares."""
        try:
            yield
        except BaseException as error:
            if self._stopped or isinstance(error, AirflowTaskTimeout):
                self._interrupt()
            raise

    def _interrupt(self) -> None:
        from airflow_ml.hooks.releases import ReleaseRecord

        platform = PlatformHook(self.airflow_ml_conn_id, self.platform).platform
        try:
            back = ReleaseRecord(platform, self.model.name).interrupt()
        except AirflowMLError as error:
            self.log.error("the traffic could not be put back: %s", error)
            return
        self.log.warning(
            "the task was stopped: %s", "all traffic is back on stable" if back else "the next run goes on from here"
        )

    # what is shown

    def _link(self, context: "Context", run: _Run) -> None:
        link = ReleaseRecordLink().xcom_key
        version = int(run.result.summary["version"])
        self.links[link] = release_url(context["ti"].dag_id, self.model.name, version)
        # Early, because a rollout that goes on is when people look.
        context["ti"].xcom_push(key=link, value=self.links[link])

    def _tell(self, summary: Mapping[str, Any], pause: float) -> None:
        what = "a person's approval" if summary.get("waits_for") == "approval" else summary.get("verdict_reason") or "–"
        self.log.info(
            "version %s: %s, %.3g %% of the traffic; %s; looking again in %.0f s",
            *(summary["version"], summary["state"], 100 * summary["share"], what, pause),
        )

    def finish(self, context: "Context", platform: Platform, result: JobResult, handle: Handle) -> dict[str, Any]:
        """As of every stage; how it ended is the run's note."""
        summary = result.summary
        why = summary.get("reason") or summary.get("why")
        note = f"{self.model.name} version {summary['version']}: {summary['state']}" + (f": {why}" if why else "")
        context["ti"].xcom_push(key=NOTE, value=note)
        return super().finish(context, platform, result, handle)


class RollbackModelOperator(RolloutModelOperator):
    """All traffic back: from the version on its way to the stable one, else from the champion to the one before it.

    With ``stage_params={"version": n}`` to that former champion.
    """

    mode: ClassVar[Mode | None] = Mode.ROLLBACK


class PromoteModelOperator(RolloutModelOperator):
    """All traffic to a version now: its canary ends here. It is promoted only if nobody promoted another meanwhile."""

    mode: ClassVar[Mode | None] = Mode.AT_ONCE

    def parameters(self, context: "Context") -> dict[str, Any]:
        """The version has to be named.

        Raises:
            SpecError: It is not.
        """
        given = super().parameters(context)
        if not self.inputs and "version" not in given:
            raise SpecError("no version is given", f"task {self.task_id}", "give stage_params={'version': …}")
        return given
