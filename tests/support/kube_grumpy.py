"""Between a client and a real API server: hands on what is asked, save what it was told to refuse."""

import asyncio
import json
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.support.kube_cluster import connect

_ENDED_ELSEWHERE = {"host", "content-length", "transfer-encoding", "content-encoding", "connection"}


def status(code: int, reason: str) -> dict[str, Any]:
    """As the API server says no."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": reason,
    }


class Grumpy:
    """The server in between.

    Attributes:
        config: A kubeconfig that leads through it.
        refusals: How often to refuse what is asked next: ``too many`` (429 to whatever it is), ``gone`` (410 to a
            watch), ``expired`` (a watch that begins, and tells 410 as its first event).
        refused: How often it did.
    """

    def __init__(self, config: Path) -> None:
        self.config = config
        self.refusals: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.port = 0
        upstream = connect().configuration
        self._host = upstream.host
        self._files = (upstream.ssl_ca_cert, upstream.cert_file, upstream.key_file)

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        authority, certificate, key = self._files
        context = ssl.create_default_context(cafile=authority)
        context.load_cert_chain(certificate, key)
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._upstream:
            app = web.Application(client_max_size=2**26)
            app.router.add_route("*", "/{path:.*}", self._answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            self._write_config()
            started.set()
            await stop.wait()
            await runner.cleanup()

    def _write_config(self) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "it", "user": {}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }
        self.config.write_text(json.dumps(config))

    def _turn(self, kind: str) -> bool:
        if self.refusals[kind] <= 0:
            return False
        self.refusals[kind] -= 1
        self.refused[kind] += 1
        return True

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self._turn("too many"):
            return web.json_response(status(429, "TooManyRequests"), status=429, headers={"Retry-After": "1"})
        if request.query.get("watch") == "true":
            if self._turn("gone"):
                return web.json_response(status(410, "Gone"), status=410)
            if self._turn("expired"):
                return web.json_response({"type": "ERROR", "object": status(410, "Expired")})
        return await self._handed_on(request)

    async def _handed_on(self, request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _ENDED_ELSEWHERE}
        url, body = f"{self._host}{request.rel_url}", await request.read()
        async with self._upstream.request(request.method, url, headers=headers, data=body) as answer:
            handed = web.StreamResponse(status=answer.status)
            handed.content_type = answer.content_type
            await handed.prepare(request)
            async for chunk in answer.content.iter_any():
                await handed.write(chunk)
            return handed


@contextmanager
def grumpy(config: Path) -> Iterator[Grumpy]:
    """Run one.

    Args:
        config: Where to write its kubeconfig.
    """
    found = Grumpy(config)
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(found.serve(started, stop)), daemon=True)
    thread.start()
    assert started.wait(20)
    try:
        yield found
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
