"""One watch of a namespace's jobs and pods, which all triggers of a triggerer share: a list, and then what changes.

Thousands of jobs that wait cost what two connections cost. Objects are cut to what is looked at before they are kept.
A watch that ends (a time-out, a server that restarts, a version that is too old, a token that has run out) is begun
anew from a list; who waits learns nothing of it but that the server is away.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import asyncio
import contextlib
import importlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from airflow_ml.compute.kubernetes.api import ApiError, path_of, refused
from airflow_ml.compute.kubernetes.facts import name_of
from airflow_ml.compute.kubernetes.names import MANAGED, PART_OF, REQUEST, WORKERS, Engine
from airflow_ml.compute.kubernetes.objects import annotation, owns

log = logging.getLogger(__name__)

Object = dict[str, Any]
Take = Callable[[Object, bool], None]
"""Keeps an object, or forgets one that was deleted."""

_HOOKS = "airflow.providers.cncf.kubernetes.hooks.kubernetes"
_PAGE = 250
"""Objects of one page of a list: reading a page must not hold up the event loop."""
_WATCH_S = 300
_SILENCE_S = 330.0
_REQUEST_S = 30.0
_RETRY_S = (0.5, 1.0, 2.0, 4.0, 5.0)


@dataclass
class _Connection:
    """A client of the hook.

    Attributes:
        client: Of ``kubernetes_asyncio``.
        stack: Closes it.
        users: Requests that it is sending.
        refused: Whether the server no longer knows who it is.
    """

    client: Any
    stack: contextlib.AsyncExitStack
    users: int = 0
    refused: bool = False

    async def close_unused(self) -> None:
        """Close a client that was refused, when nobody sends anything by it any more."""
        if self.refused and not self.users:
            await self.stack.aclose()


class AsyncApi:
    """The API server, through the provider's asynchronous hook; one client, made anew when it is refused.

    Args:
        conn_id: Connection of type ``kubernetes``.
    """

    def __init__(self, conn_id: str) -> None:
        self.conn_id = conn_id
        self.requests = 0
        self._connecting = asyncio.Lock()
        self._connection: _Connection | None = None

    async def open(self, path: str, query: Mapping[str, Any], silence_s: float = _REQUEST_S) -> Any:
        """An answer whose body is still to be read.

        Raises:
            ApiError: Refused, or no answer.
        """
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_REQUEST_S, sock_read=silence_s)
        self.requests += 1
        connection = await self._connected()
        connection.users += 1
        try:
            answer = await connection.client.call_api(
                path,
                "GET",
                query_params=list(query.items()),
                header_params={"Accept": "*/*" if path.endswith("/log") else "application/json"},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=timeout,
            )
            if answer.status >= 400:
                error = refused(answer.status, await answer.text(), f"GET {path}")
                if error.status == 401:
                    self._forget(connection)
                raise error
            return answer
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ApiError(0, "NoAnswer", f"no answer: {type(error).__name__}", f"GET {path}") from error
        finally:
            connection.users -= 1
            await connection.close_unused()

    async def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """An object, or the text of a log.

        Raises:
            ApiError: Refused, or no answer.
        """
        import aiohttp

        answer = await self.open(path, query or {})
        try:
            body = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ApiError(0, "NoAnswer", f"no answer: {type(error).__name__}", f"GET {path}") from error
        return body.decode("utf-8", "replace") if path.endswith("/log") else json.loads(body)

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is None:
                # Seconds the first time, in which the triggerer serves others.
                provider = await asyncio.to_thread(importlib.import_module, _HOOKS)
                hook = provider.AsyncKubernetesHook(conn_id=self.conn_id)
                stack = contextlib.AsyncExitStack()
                self._connection = _Connection(await stack.enter_async_context(hook.get_conn()), stack)
            return self._connection

    def _forget(self, connection: _Connection) -> None:
        """Make the next request use another client; others may be sending by this one."""
        connection.refused = True
        if self._connection is connection:
            self._connection = None

    async def close(self) -> None:
        """Close the client."""
        if self._connection is not None:
            await self._connection.stack.aclose()
            self._connection = None


class JobWatch:
    """The jobs of ours in a namespace, and their pods, as they are now.

    Args:
        conn_id: Connection of type ``kubernetes``.
        namespace: Of the jobs.
        engine: Kind of the jobs.

    Attributes:
        away: Why the API server cannot be asked at the moment; None when it can.
        broken: Why it will never be: no provider, a connection that is wrong.
    """

    _shared: ClassVar[dict[tuple[Any, ...], "JobWatch"]] = {}

    def __init__(self, conn_id: str, namespace: str, engine: Engine) -> None:
        self.api = AsyncApi(conn_id)
        self.namespace = namespace
        self.engine = engine
        self.away: ApiError | None = None
        self.broken: Exception | None = None
        self.listed = asyncio.Event()
        self._jobs: dict[str, Object] = {}
        self._pods: dict[str, dict[str, Object]] = {}
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._users = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def shared(cls, conn_id: str, namespace: str, engine: Engine) -> "AsyncIterator[JobWatch]":
        """The watch of this event loop; it ends with the last one who uses it."""
        key = (asyncio.get_running_loop(), conn_id, namespace, engine)
        watch = cls._shared.get(key)
        if watch is None:
            watch = cls._shared[key] = cls(conn_id, namespace, engine)
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

    def pods(self, name: str, folder: str) -> list[Object]:
        """Pods of the job that answers into a folder, and of its workers; another one may have had its name before."""
        return [pod for pod in self._pods.get(name, {}).values() if annotation(pod, REQUEST) == folder]

    def _start(self) -> None:
        ours = ",".join([*(f"{name}={value}" for name, value in MANAGED.items()), PART_OF])
        jobs = path_of(self.engine.version, self.engine.kind, self.namespace)
        pods = path_of("v1", "Pod", self.namespace)
        self._tasks = [
            asyncio.create_task(self._keep(jobs, ours, self._take_job)),
            asyncio.create_task(self._keep(pods, ours, self._take_pod)),
        ]

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.api.close()

    async def _keep(self, path: str, selector: str, take: Take) -> None:
        """List and watch, for ever."""
        failures = 0
        version: str | None = None
        while True:
            try:
                if version is None:
                    version = await self._list(path, selector, take)
                async for kind, item in self._watch(path, selector, version):
                    failures = 0
                    version = item["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        take(item, kind == "DELETED")
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

    async def _list(self, path: str, selector: str, take: Take) -> str:
        query: dict[str, Any] = {"labelSelector": selector, "limit": _PAGE}
        seen: set[str] = set()
        while True:
            page = await self.api.get(path, query)
            for item in page["items"] or ():
                seen.add(name_of(item))
                take(item, False)
            # Others have their turn between two pages.
            await asyncio.sleep(0)
            if not page["metadata"].get("continue"):
                break
            query["continue"] = page["metadata"]["continue"]
        self._forget_but(seen, take)
        return str(page["metadata"]["resourceVersion"])

    def _forget_but(self, seen: set[str], take: Take) -> None:
        """Take those for deleted that a list no longer has."""
        known = (
            list(self._jobs.values())
            if take == self._take_job
            else [pod for pods in self._pods.values() for pod in pods.values()]
        )
        for item in known:
            if name_of(item) not in seen:
                take(item, True)
        if take == self._take_job:
            self.listed.set()

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
            self._jobs[name] = _cut_job(item)
        self._tell(item["metadata"]["labels"][PART_OF])

    def _take_pod(self, item: Object, deleted: bool) -> None:
        job = item["metadata"]["labels"][PART_OF]
        if deleted:
            pods = self._pods.get(job, {})
            pods.pop(name_of(item), None)
            if not pods:
                self._pods.pop(job, None)
        else:
            self._pods.setdefault(job, {})[name_of(item)] = _cut_pod(item)
        self._tell(job)

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


def _cut(metadata: Object, names: tuple[str, ...]) -> Object:
    return {name: metadata[name] for name in names if name in metadata}


def _cut_job(item: Object) -> Object:
    """What `observe` and an owner look at; templates of thousands of jobs would fill the memory."""
    return {
        "metadata": _cut(item["metadata"], _JOB_METADATA),
        "status": item.get("status", {}),
    }


def _cut_pod(item: Object) -> Object:
    metadata = _cut(item["metadata"], ("name", "uid", "labels", "annotations", "creationTimestamp"))
    return {"metadata": metadata, "status": _cut(item.get("status", {}), _POD_STATUS)}


_JOB_METADATA = ("name", "uid", "labels", "annotations", "deletionTimestamp", "ownerReferences")
_POD_STATUS = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses")
