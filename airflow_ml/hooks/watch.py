"""One watch of a namespace's jobs and pods, which all triggers of a triggerer share: a list, and then what changes.

Thousands of jobs that wait cost what two connections cost; a third one hears what Kueue says of them, where it does.
A watch that ends (a time-out, a server that restarts, a version that is too old, a token that has run out) is begun
anew from a list; who waits learns nothing of it but that the server is away.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from airflow_ml.compute.kubernetes.api import ApiError, path_of
from airflow_ml.compute.kubernetes.facts import name_of
from airflow_ml.compute.kubernetes.names import MANAGED, PART_OF, REQUEST, WORKERS, Engine
from airflow_ml.compute.kubernetes.objects import annotation, owns
from airflow_ml.compute.kubernetes.queues import GROUP_PATH, JOB_UID, version_of
from airflow_ml.hooks.async_api import AsyncApi
from airflow_ml.hooks.cutting import cut_job, cut_pod, cut_workload

log = logging.getLogger(__name__)

Object = dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """Objects of a kind that are kept as they are now.

    Attributes:
        path: Finds where they are.
        selector: Of their labels.
        take: Keeps an object, or forgets one that was deleted.
        known: Those that are kept.
    """

    path: Callable[[], Awaitable[str]]
    selector: str
    take: Callable[[Object, bool], None]
    known: Callable[[], list[Object]]


_PAGE = 250
"""Objects of one page of a list: reading a page must not hold up the event loop."""
_WATCH_S = 300
_SILENCE_S = 330.0
_RETRY_S = (0.5, 1.0, 2.0, 4.0, 5.0)


class JobWatch:
    """The jobs of ours in a namespace, and their pods, as they are now.

    Args:
        conn_id: Connection of type ``kubernetes``.
        namespace: Of the jobs.
        engine: Kind of the jobs.
        queued: Whether they wait in a queue first.

    Attributes:
        away: Why the API server cannot be asked at the moment; None when it can.
        broken: Why it will never be: no provider, a connection that is wrong.
    """

    _shared: ClassVar[dict[tuple[Any, ...], "JobWatch"]] = {}

    def __init__(self, conn_id: str, namespace: str, engine: Engine, queued: bool) -> None:
        self.api = AsyncApi(conn_id)
        self.namespace = namespace
        self.engine = engine
        self.queued = queued
        self.away: ApiError | None = None
        self.broken: Exception | None = None
        self.listed = asyncio.Event()
        self._jobs: dict[str, Object] = {}
        self._pods: dict[str, dict[str, Object]] = {}
        self._workloads: dict[str, Object] = {}
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._users = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def shared(cls, conn_id: str, namespace: str, engine: Engine, queued: bool) -> "AsyncIterator[JobWatch]":
        """The watch of this event loop; it ends with the last one who uses it."""
        key = (asyncio.get_running_loop(), conn_id, namespace, engine, queued)
        watch = cls._shared.get(key)
        if watch is None:
            watch = cls._shared[key] = cls(conn_id, namespace, engine, queued)
            watch._start()
        watch._users += 1
        try:
            yield watch
        finally:
            watch._users -= 1
            if not watch._users:
                del cls._shared[key]
                await watch._end()

    @contextlib.contextmanager
    def following(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set when something about a job changes, for as long as somebody follows it."""
        changed = asyncio.Event()
        self._waiting.setdefault(name, set()).add(changed)
        try:
            yield changed
        finally:
            self._waiting[name].discard(changed)
            if not self._waiting[name]:
                del self._waiting[name]

    def job(self, name: str, uid: str) -> Object | None:
        """The job as it is now, cut to what is looked at; None when it is not there."""
        job = self._jobs.get(name)
        return job if job is not None and job["metadata"]["uid"] == uid else None

    def workers(self, job: Object) -> Object | None:
        """The Job of those that train, where the job is only that of their coordinator."""
        found = self._jobs.get(annotation(job, WORKERS) or "")
        return found if found is not None and owns(job, found) else None

    def workload(self, job: Object) -> Object | None:
        """What Kueue says of a job, or of its workers."""
        return self._workloads.get(job["metadata"]["uid"])

    def pods(self, name: str, folder: str) -> list[Object]:
        """Pods of the job that answers into a folder, and of its workers; another one may have had its name before."""
        return [pod for pod in self._pods.get(name, {}).values() if annotation(pod, REQUEST) == folder]

    def _start(self) -> None:
        ours = ",".join([*(f"{name}={value}" for name, value in MANAGED.items()), PART_OF])

        async def jobs() -> str:
            return path_of(self.engine.version, self.engine.kind, self.namespace)

        async def pods() -> str:
            return path_of("v1", "Pod", self.namespace)

        async def workloads() -> str:
            return path_of(version_of(await self.api.get(GROUP_PATH)), "Workload", self.namespace)

        kept = [
            Kept(jobs, ours, self._take_job, lambda: [*self._jobs.values()]),
            Kept(pods, ours, self._take_pod, lambda: [pod for pods in self._pods.values() for pod in pods.values()]),
        ]
        if self.queued:
            kept.append(Kept(workloads, JOB_UID, self._take_workload, lambda: [*self._workloads.values()]))
        self._tasks = [asyncio.create_task(self._keep(each)) for each in kept]

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.api.close()

    async def _keep(self, kept: Kept) -> None:
        """List and watch, for ever."""
        failures = 0
        version: str | None = None
        while True:
            try:
                path = await kept.path()
                if version is None:
                    version = await self._list(path, kept)
                async for kind, item in self._watch(path, kept.selector, version):
                    failures = 0
                    version = item["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        kept.take(item, kind == "DELETED")
            except ApiError as error:
                if self.away is None or self.away.status != error.status:
                    log.info("namespace %s is watched anew after status %d %s", self.namespace, error.status, error)
                if error.status == 410:
                    version = None
                    continue
                self.away = error
                self._tell_all()
                await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1
                # What happened meanwhile may be more than the server keeps.
                version = version if error.away else None
            except Exception as error:  # whoever waits has to learn of it, whatever it is
                log.exception("the watch of namespace %s has ended", self.namespace)
                self.broken = error
                self._tell_all()
                return

    async def _list(self, path: str, kept: Kept) -> str:
        query: dict[str, Any] = {"labelSelector": kept.selector, "limit": _PAGE}
        seen: set[str] = set()
        while True:
            page = await self.api.get(path, query)
            for item in page["items"] or ():
                seen.add(name_of(item))
                kept.take(item, False)
            # Others have their turn between two pages.
            await asyncio.sleep(0)
            if not page["metadata"].get("continue"):
                break
            query["continue"] = page["metadata"]["continue"]
        for item in kept.known():
            if name_of(item) not in seen:
                kept.take(item, True)
        if kept.take == self._take_job:
            self.listed.set()
        return str(page["metadata"]["resourceVersion"])

    async def _watch(self, path: str, selector: str, version: str) -> AsyncIterator[tuple[str, Object]]:
        import aiohttp

        query = {
            "labelSelector": selector,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": _WATCH_S,
        }
        answer = await self.api.open(path, query, _SILENCE_S)
        self._answered()
        rest = b""
        try:
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for number, line in enumerate(lines):
                    event = _parsed(line, path)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise ApiError(int(status.get("code", 500)), status.get("reason", ""), status["message"], path)
                    yield event["type"], event["object"]
                    if number % 50 == 49:
                        await asyncio.sleep(0)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ApiError(0, "NoAnswer", f"no answer: {type(error).__name__}", f"GET {path}") from error
        finally:
            answer.close()

    def _take_job(self, item: Object, deleted: bool) -> None:
        name = name_of(item)
        if deleted:
            self._jobs.pop(name, None)
        else:
            self._jobs[name] = cut_job(item)
        self._tell(item["metadata"]["labels"][PART_OF])

    def _take_pod(self, item: Object, deleted: bool) -> None:
        job = item["metadata"]["labels"][PART_OF]
        if deleted:
            pods = self._pods.get(job, {})
            pods.pop(name_of(item), None)
            if not pods:
                self._pods.pop(job, None)
        else:
            self._pods.setdefault(job, {})[name_of(item)] = cut_pod(item)
        self._tell(job)

    def _take_workload(self, item: Object, deleted: bool) -> None:
        uid = item["metadata"]["labels"][JOB_UID]
        if deleted:
            self._workloads.pop(uid, None)
        else:
            self._workloads[uid] = cut_workload(item)
        for owner in item["metadata"].get("ownerReferences") or ():
            job = self._jobs.get(owner["name"])
            if job is not None and owner["uid"] == uid:
                self._tell(job["metadata"]["labels"][PART_OF])

    def _answered(self) -> None:
        if self.away is not None:
            self.away = None
            self._tell_all()

    def _tell(self, name: str) -> None:
        for changed in self._waiting.get(name, ()):
            changed.set()

    def _tell_all(self) -> None:
        for name in self._waiting:
            self._tell(name)


def _parsed(line: bytes, path: str) -> Object:
    try:
        event: Object = json.loads(line)
    except ValueError as error:
        raise ApiError(0, "NoAnswer", "what it says is no JSON", f"GET {path}") from error
    return event
