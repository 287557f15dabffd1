"""The API server as triggers ask it: through the provider's asynchronous hook, and its connection type.

A client that is refused (its token has run out) is replaced for the next request, while others still use the old one.
"""

import asyncio
import contextlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_ml.compute.kubernetes.api import ApiError, refused

_HOOKS = "airflow.providers.cncf.kubernetes.hooks.kubernetes"
_REQUEST_S = 30.0


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
