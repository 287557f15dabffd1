"""The process of a gateway: its parts, the order in which they start, and how they end without losing anything."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from airflow_ml.gateway.core import Gateway
from airflow_ml.gateway.lines import POLL_S, Watch
from airflow_ml.gateway.log import PredictionLog
from airflow_ml.gateway.metrics import Metrics
from airflow_ml.gateway.records import TABLE
from airflow_ml.gateway.rest import RestApi
from airflow_ml.gateway.rpc import GrpcApi
from airflow_ml.lifecycle.errors import InputError
from airflow_ml.serving.client import connect_async
from airflow_ml.serving.connections import way_to
from airflow_ml.spec import Model, Platform

log = logging.getLogger(__name__)

_GRACE_S = 5
_KEEP_ALIVE_S = 120
"""Longer than a client keeps an idle connection: who closes first must not be us, or its next request fails."""


def run(model: Model, platform: Platform, host: str, port: int, grpc_port: int) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is under way, and bring the log to the lake.

    Args:
        model: The declaration.
        platform: Where its release record, its model server and its lake are.
        host: Address to listen on.
        port: REST; 0 takes a free one.
        grpc_port: gRPC; 0 takes a free one.

    Raises:
        AirflowMLError: It cannot start.
    """
    with _bound(host, port) as rest:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
        runner = asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory())
        with runner:
            runner.run(_serve(model, platform, rest, f"{host}:{grpc_port}"))


async def _serve(model: Model, platform: Platform, rest: socket.socket, grpc_address: str) -> None:
    scheme, security = way_to(platform.serving, os.environ)
    metrics = Metrics(model.name)
    base = Path(platform.base)
    records = PredictionLog(base / "lake" / model.name / TABLE, base / "spool" / model.name, model.name, metrics)
    # Before the first channel: gRPC complains of forks after it.
    await records.start()
    server_client = connect_async(f"{scheme}://{platform.serving.grpc}", security=security)
    gateway = Gateway(model, server_client, records, metrics)
    rpc = GrpcApi(gateway, metrics, grpc_address)
    follower = Follower(Watch(platform, model.name), gateway, metrics)
    config = uvicorn.Config(
        RestApi(gateway, metrics).app(),
        lifespan="off",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        log_level="warning",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        # For a signal before the server takes them over, and for the one that it raises again when it has shut down.
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    try:
        await follower.look()
        await rpc.start()
        beside = (follower.follow(), _announce(server, rest, grpc_address, rpc))
        tasks = [asyncio.create_task(each) for each in beside]
        await server.serve(sockets=[rest])
        for task in tasks:
            task.cancel()
        await rpc.stop(_GRACE_S)
        await gateway.drain(_GRACE_S)
    finally:
        await server_client.close()
        await records.close()


class Follower:
    """Keeps a gateway at what the release record says.

    Args:
        watch: Of the record.
        gateway: Is told.
        metrics: Show the weights, and count what cannot be read.
    """

    def __init__(self, watch: Watch, gateway: Gateway, metrics: Metrics) -> None:
        self._watch = watch
        self._gateway = gateway
        self._metrics = metrics
        self._complaint = ""

    async def follow(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.look()
            except Exception:
                # Whatever it is: without a watch, a canary that is rolled back would go on.
                self._metrics.routing_errors.labels(self._gateway.model.name).inc()
                log.exception("the release record could not be looked at")

    async def look(self) -> None:
        """Look once."""
        read, problem = await self._watch.look()
        if problem is not None:
            self._metrics.routing_errors.labels(self._gateway.model.name).inc()
        complaint = "" if problem is None else str(problem)
        if read and complaint != self._complaint:
            self._complaint = complaint
            log.warning("the release record: %s", complaint or "is right again")
        found = self._watch.lines
        # A record that cannot be read at all takes nobody's answers away: what holds was trusted when it was read.
        if read and found != self._gateway.lines and (found is not None or problem is None):
            self._gateway.follow(found)
            if found is not None:
                self._metrics.routed(found.routing)
            log.info("routing: %s", "no champion" if found is None else found.routing.model_dump_json())


async def _announce(server: uvicorn.Server, rest: socket.socket, grpc_address: str, rpc: GrpcApi) -> None:
    """Say where it listens as soon as it does, for people and for whoever started this process."""
    while not server.started:
        await asyncio.sleep(0.01)
    host, port = rest.getsockname()[:2]
    print(f"ready: grpc {grpc_address.rpartition(':')[0]}:{rpc.port} rest {host}:{port}", flush=True)


def _bound(host: str, port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise InputError(f"cannot listen: {error.strerror}", f"{host}:{port}", "choose another port") from error
    return found
