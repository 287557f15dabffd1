"""A steady stream of requests to a gateway, and what became of them.

The stream is open: requests leave at their time, whether or not earlier ones were answered, as people's requests do. So
a service that stalls shows its stall in the latency of all that waited, instead of being asked less.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import aiohttp


@dataclass
class Traffic:
    """What became of a stream.

    Attributes:
        answered: Rows by the arm whose turn it was.
        versions: Rows by the version that answered.
        fallbacks: Rows, by arm, that another version or the default answered.
        failed: Requests without an answer, by HTTP status or kind of error.
        latencies_ms: Of each answered request, from the moment at which it was due.
        arms: Entity → arm of its newest answer.
    """

    answered: Counter[str] = field(default_factory=Counter)
    versions: Counter[int] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    arms: dict[str, str] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """All that were sent and ended."""
        return len(self.latencies_ms) + self.failed.total()

    def quantile_ms(self, share: float) -> float:
        """Latency that this share of the answered requests did not exceed; 0 without any."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


class Load:
    """Sends rows round and round at a rate; use it as an asynchronous context manager, which ends it.

    Args:
        url: ``http://host:port`` of the gateway.
        model: Name.
        rows: Raw features, each with its entity; one a request.
        entity: Name of the entity's field.
        rate: Requests a second.
        headers: Of every request.
        timeout_s: After which a request has failed.

    Attributes:
        traffic: What became of it so far; `Load.take` starts a new one.
    """

    def __init__(
        self,
        url: str,
        model: str,
        rows: Iterable[Mapping[str, Any]],
        entity: str,
        rate: float,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self.traffic = Traffic()
        self._url = f"{url}/v1/models/{model}:predict"
        self._rows = cycle(rows)
        self._entity = entity
        self._rate = rate
        self._headers = dict(headers or {})
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._sending: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    def take(self) -> Traffic:
        """What became of the requests that ended since the last call."""
        taken, self.traffic = self.traffic, Traffic()
        return taken

    async def settled(self) -> None:
        """Waits for the answers to all that is under way now: what was sent under an earlier routing has ended then."""
        if under_way := set(self._under_way):
            await asyncio.wait(under_way)

    async def __aenter__(self) -> Load:
        self._session = aiohttp.ClientSession(
            headers=self._headers, timeout=self._timeout, connector=aiohttp.TCPConnector(limit=0), trust_env=False
        )
        self._sending = asyncio.create_task(self._send_all())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._sending is not None
        assert self._session is not None
        self._sending.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)
        await self._session.close()

    async def _send_all(self) -> None:
        began = time.perf_counter()
        sent = 0
        while True:
            due = began + sent / self._rate
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            task = asyncio.create_task(self._send(next(self._rows), due))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            sent += 1

    async def _send(self, row: Mapping[str, Any], due: float) -> None:
        assert self._session is not None
        try:
            async with self._session.post(self._url, json={"instances": [row]}) as response:
                body = await response.json()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.traffic.failed[type(error).__name__] += 1
            return
        traffic = self.traffic
        if status != 200:
            traffic.failed[str(status)] += 1
            return
        traffic.latencies_ms.append((time.perf_counter() - due) * 1e3)
        for found in body["predictions"]:
            traffic.answered[found["arm"]] += 1
            traffic.versions[found["model_version"]] += 1
            traffic.arms[found[self._entity]] = found["arm"]
            if found["fallback"]:
                traffic.fallbacks[found["arm"]] += 1
