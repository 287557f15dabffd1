"""Waits in the triggerer for a job of a cluster, and tells what it says."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from airflow.sdk import BaseHook
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_ml.compute import Compute, Handle, JobState, Phase, open_compute
from airflow_ml.compute.base import RemoteJob
from airflow_ml.compute.exchange import read_response, renew
from airflow_ml.compute.kubernetes.api import ApiError, path_of
from airflow_ml.compute.kubernetes.facts import EVENTS, name_of
from airflow_ml.compute.kubernetes.names import OWNER, PART_OF, REQUEST, engine_of_kind
from airflow_ml.compute.kubernetes.objects import Object, annotation
from airflow_ml.compute.kubernetes.observing import Observation, may_have_answered, observe, starting
from airflow_ml.compute.kubernetes.telling import LAST_LINES, Told, last_lines, others
from airflow_ml.hooks.kubernetes import cluster
from airflow_ml.hooks.watch import JobWatch
from airflow_ml.lifecycle.errors import AirflowMLError, ClusterError
from airflow_ml.lifecycle.logs import masked, split_level
from airflow_ml.spec import KubernetesCompute

_ENDING: set[asyncio.Task[None]] = set()
"""Jobs that are being ended: an event loop holds its tasks by weak references only."""


class JobTrigger(BaseTrigger):
    """Fires when the job has ended, has not started in time, or at the deadline; in the latter cases it ends the job.

    The deadline is absolute and kept here: Airflow enforces no timeout of a deferred task in time.

    Args:
        handle: The job, as a dictionary.
        compute: Declaration of the cluster, as a dictionary.
        deadline: Seconds since the epoch.
        secrets: Connections whose passwords the job has; its lines are told without them.
        tell_s: Seconds between reading the log of a job that runs.
    """

    def __init__(
        self,
        handle: dict[str, Any],
        compute: dict[str, Any],
        deadline: float,
        secrets: Sequence[str] = (),
        tell_s: float = 10.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.handle = handle
        self.compute = compute
        self.deadline = deadline
        self.secrets = list(secrets)
        self.tell_s = tell_s
        self._told = Told()
        self._log_read = 0.0
        self._away = False
        self._ran = False
        self._starting = False
        self._asked = 0.0
        self._known: list[Object] = []

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Everything, so that another triggerer can go on."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        names = ("handle", "compute", "deadline", "secrets", "tell_s")
        return path, {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yields one event: ended, taken, timeout or error; what the job has answered is read by the task."""
        handle, spec = Handle.model_validate(self.handle), KubernetesCompute.model_validate(self.compute)
        try:
            passwords = [(await BaseHook.aget_connection(name)).password or "" for name in self.secrets]
            engine, queued = engine_of_kind(_ref(handle).kind), spec.queue is not None
            async with JobWatch.shared(spec.conn_id, spec.namespace, engine, queued) as watch:
                yield self._event(await self._follow(watch, handle, spec, passwords))
        except AirflowMLError as error:
            yield self._event({"status": "error", **error.to_dict()})
        except ApiError as error:
            yield self._event({"status": "error", **error.told().to_dict()})

    def _event(self, found: dict[str, Any]) -> TriggerEvent:
        return TriggerEvent({**found, "handle": self.handle})  # type: ignore[no-untyped-call]

    async def _follow(
        self, watch: JobWatch, handle: Handle, spec: KubernetesCompute, passwords: list[str]
    ) -> dict[str, Any]:
        """Wait for the event."""
        renew_s = spec.lease_s / 3
        # Thousands of triggers that a triggerer starts at once do not renew at once.
        renewed = time.time() - random.uniform(0, renew_s)
        with watch.following(_ref(handle).name) as changed:
            while True:
                changed.clear()
                now = time.time()
                if now - renewed >= renew_s:
                    renewed = now
                    # A folder may lie on a network file system that hangs; the triggerer serves many.
                    await asyncio.to_thread(renew, handle.folder)
                if now >= self.deadline:
                    await self._cancel(handle)
                    return {"status": "timeout"}
                event = await self._look(watch, handle, spec, now, passwords)
                if event is not None:
                    return event
                waiting = [self.deadline - now, renewed + renew_s - now]
                if self._starting or watch.pods(_ref(handle).name, handle.folder) or watch.away is not None:
                    # There is a log to be read, and a time by which the pods have to run, also those that nobody made.
                    waiting.append(self.tell_s)
                await _wait(changed, min(waiting))

    async def _look(
        self, watch: JobWatch, handle: Handle, spec: KubernetesCompute, now: float, passwords: list[str]
    ) -> dict[str, Any] | None:
        """Tell what is new; the event, when there is one."""
        ref = _ref(handle)
        self._tell_away(watch)
        if watch.away is not None or not watch.listed.is_set():
            return None
        job = watch.job(ref.name, ref.uid)
        if job is None:
            try:
                job = await self._certainly(watch, ref)
            except ApiError as error:
                if error.waited_out:
                    return None
                raise
        if job is not None and annotation(job, OWNER) != ref.owner:
            return {"status": "taken"}
        pods = watch.pods(ref.name, handle.folder)
        workers = watch.workers(job) if job is not None else None
        answered = may_have_answered(job, pods, now)
        response = await asyncio.to_thread(read_response, handle.folder) if answered else None
        workload = watch.workload(workers or job) if job is not None else None
        events = await self._events(watch, now) if starting(job, self._ran) else []

        def observed(pods: list[Object]) -> Observation:
            return observe(job, pods, response, now, spec.start_timeout_s, workers, self._ran, workload, events)

        found = observed(pods)
        ended = found.state.phase is Phase.ENDED
        failed = ended and found.state.exit_code != 0
        if failed:
            # What is known of the pods may be older than what is known of the job, and it explains the end.
            pods = await self._pods_now(watch, ref, handle.folder) or pods
            found = observed(pods)
        self._ran = found.ran
        self._starting = starting(job, found.ran)
        for line in self._told.news(found):
            self._tell(line, passwords)
        if ended or now - self._log_read >= self.tell_s:
            self._log_read = now
            await self._tell_log(watch, ref, pods, passwords)
        if failed:
            await self._tell_last_lines(watch, ref, pods, passwords)
        if found.to_end:
            await self._cancel(handle)
        return _ending(found.state, passwords) if ended else None

    def _tell_away(self, watch: JobWatch) -> None:
        if watch.broken is not None:
            what = f"{type(watch.broken).__name__}: {watch.broken}"
            raise ClusterError(what, where="the triggerer", remedy="is airflow-ml[kubernetes] installed there?")
        error = watch.away
        if error is not None and error.status == 403:
            raise error
        if (error is not None) != self._away:
            self._away = error is not None
            self._tell(f"WARNING {error}; the job is waited for" if error else "INFO the API server is back", ())

    async def _certainly(self, watch: JobWatch, ref: RemoteJob) -> Any:
        """The job, asked for by name: the watch may not have heard of one that was just made."""
        try:
            job = await watch.api.get(path_of(watch.engine.version, watch.engine.kind, ref.namespace, ref.name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return job if job["metadata"]["uid"] == ref.uid else None

    async def _events(self, watch: JobWatch, now: float) -> list[Object]:
        """What may say why pods do not start; a look that follows another one closely has what that one had."""
        if now - self._asked >= self.tell_s:
            self._asked = now
            with contextlib.suppress(ApiError):
                answer = await watch.api.get(path_of("v1", "Event", watch.namespace), EVENTS)
                self._known = answer["items"] or []
        return self._known

    async def _pods_now(self, watch: JobWatch, ref: RemoteJob, folder: str) -> list[Object]:
        """Pods of the job; none where they cannot be asked for."""
        with contextlib.suppress(ApiError):
            query = {"labelSelector": f"{PART_OF}={ref.name}"}
            items = (await watch.api.get(path_of("v1", "Pod", ref.namespace), query))["items"] or ()
            return [pod for pod in items if annotation(pod, REQUEST) == folder]
        return []

    async def _tell_log(
        self, watch: JobWatch, ref: RemoteJob, pods: Sequence[Object], passwords: Sequence[str]
    ) -> None:
        reading = self._told.log_of(pods)
        if reading is not None:
            for line in self._told.new_lines(await self._said(watch, ref, *reading)):
                self._tell(line, passwords)

    async def _tell_last_lines(
        self, watch: JobWatch, ref: RemoteJob, pods: Sequence[Object], passwords: Sequence[str]
    ) -> None:
        for pod in others(pods):
            for line in last_lines(pod, await self._said(watch, ref, name_of(pod), LAST_LINES)):
                self._tell(line, passwords)

    async def _said(self, watch: JobWatch, ref: RemoteJob, pod: str, query: Mapping[str, Any]) -> str:
        """What a pod has said; nothing when it has not started, or its node is gone: there will be another time."""
        try:
            return str(await watch.api.get(path_of("v1", "Pod", ref.namespace, pod) + "/log", query))
        except ApiError:
            return ""

    async def on_kill(self) -> None:
        """The task was marked, cleared or deleted: the job ends with it, unless a newer try owns it by now."""
        await self._cancel(Handle.model_validate(self.handle))

    async def _cancel(self, handle: Handle) -> None:
        """End the job, also when this is cancelled: Airflow cancels a trigger again each second until it is gone."""
        ending = asyncio.create_task(asyncio.to_thread(lambda: self._open().cancel(handle, wait=False)))
        _ENDING.add(ending)
        ending.add_done_callback(_ENDING.discard)
        await asyncio.shield(ending)

    def _open(self) -> Compute:
        return open_compute(KubernetesCompute.model_validate(self.compute), cluster)

    def _tell(self, line: str, passwords: Sequence[str]) -> None:
        level, text = split_level(masked(line, passwords))
        self.log.log(level, "%s", text)


def _ending(state: JobState, passwords: Sequence[str]) -> dict[str, Any]:
    """An end, in small: what the job has answered lies in its folder. It is stored, and may have a pod's last lines."""
    answered = state.response is not None
    known = {"code": state.exit_code, "detail": masked(state.detail, passwords), "remedy": state.remedy}
    return {"status": "ended", "answered": answered, **known}


def _ref(handle: Handle) -> RemoteJob:
    if handle.job is None:
        raise AirflowMLError("the handle names no job of a cluster", where=handle.id)
    return handle.job


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(changed.wait(), max(0.0, seconds))
    except TimeoutError:
        return
