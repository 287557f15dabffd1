"""REST from an event loop, on aiohttp."""

from __future__ import annotations

from typing import TypeVar

import aiohttp

from airflow_ml.serving.calls import Call
from airflow_ml.serving.errors import serving_error
from airflow_ml.serving.rest_client import answer_of, unreachable
from airflow_ml.serving.security import Security

T = TypeVar("T")


class AsyncRestTransport:
    """A pool of connections over HTTP/1.1.

    Args:
        url: ``http://host:port``.
        security: Certificates and token.
    """

    def __init__(self, url: str, security: Security) -> None:
        self._url = url.rstrip("/")
        self._ssl = security.ssl_context() if url.startswith("https:") else True
        self._headers = {"Content-Type": "application/json", **dict(security.metadata)}
        self._session: aiohttp.ClientSession | None = None  # it belongs to the loop in which it is made

    async def send(self, call: Call[T], timeout: float) -> T:
        """Send it once."""
        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self._headers, trust_env=False)
        verb, _, path = call.method.partition(" ")
        try:
            async with self._session.request(
                verb, self._url + path, data=call.request, ssl=self._ssl, timeout=aiohttp.ClientTimeout(total=timeout)
            ) as response:
                status, content = response.status, await response.read()
        except TimeoutError as error:
            raise serving_error("DEADLINE_EXCEEDED", f"no answer within {timeout:.1f} s", call.where) from error
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(error, call.where) from error
        return call.heard(answer_of(status, content, call.where))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
