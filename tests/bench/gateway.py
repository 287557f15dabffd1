"""The gateway: what it adds to a request, against asking the model server directly, and a steady stream through it.

One row a request, one request at a time, server and gateway in turn within one run; both are processes of this machine,
and so is the asker. Through the gateway a request is routed, checked, recorded and counted.
"""

import asyncio
import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from airflow_ml.gateway.load import Load
from airflow_ml.serving.client import connect
from airflow_ml.serving.sandbox import RunningServer, model_server
from airflow_ml.spec import Platform
from tests.bench.report import Cell, Report, Table, median
from tests.support.online import NAME, SIGNATURE, RunningGateway, gateway, serve_versions
from tests.support.released import crown, record
from tests.support.serving_waits import wait_available
from tests.unit.serving.exported import make

TURNS = 10
REQUESTS = 300
RATE = 200
STREAM_S = 20.0

Ask = Callable[[], Any]


def run() -> Report:
    """Both ways over both protocols, then the stream."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        exported = make(folder / "saved_model")
        serve_versions(folder / "serving", {1: exported.path})
        with model_server(folder / "serving") as server:
            target = {"folder": str(folder / "serving"), "grpc": server.grpc.removeprefix("grpc://")}
            platform = Platform(base=str(folder / "base"), serving=target)
            record(platform, NAME, 1, SIGNATURE)
            crown(platform, NAME, 1)
            with server.connect() as client:
                wait_available(client, NAME, 1, 60)
            with gateway(platform) as running:
                row = {name: values[0] for name, values in exported.golden[0].inputs.items()}
                times_ms = _measure(server, running, row)
                stream = asyncio.run(_stream(running, row))
    cells: list[tuple[Cell, ...]] = []
    details: dict[str, Any] = {"times_ms": times_ms, "stream": stream}
    for protocol in ("gRPC", "REST"):
        server_ms, gateway_ms = times_ms[f"{protocol} server"], times_ms[f"{protocol} gateway"]
        added = median(gateway_ms) - median(server_ms)
        details[f"{protocol} overhead p50 ms"] = added
        cells.append((protocol, median(server_ms), median(gateway_ms), added, _p99(server_ms), _p99(gateway_ms)))
    tables = (
        Table(
            "One row a request, one at a time, milliseconds (goal: p50 at most 2 ms over asking directly)",
            ("protocol", "server p50", "gateway p50", "added p50", "server p99", "gateway p99"),
            tuple(cells),
        ),
        Table(
            f"A stream of {RATE} requests a second over REST",
            ("requests", "failed", "p50 ms", "p99 ms"),
            ((stream["requests"], stream["failed"], stream["p50_ms"], stream["p99_ms"]),),
        ),
    )
    notes = (f"{TURNS} turns of {REQUESTS} requests each way; the asker, the gateway and the server share the cores",)
    return Report("gateway", tables, notes, details)


def _measure(server: RunningServer, running: RunningGateway, row: dict[str, Any]) -> dict[str, list[float]]:
    kinds = {"string": object, "int64": np.int64, "float32": np.float32}
    columns = {
        name: np.array([np.nan if row[name] is None else row[name]], dtype=kinds[kind])
        for name, kind in SIGNATURE.items()
    }
    named = {"id": np.array(["a"], dtype=object), **columns}
    with connect(server.grpc) as direct, connect(running.grpc) as through:
        asks: dict[str, Ask] = {
            "gRPC server": lambda: direct.predict(NAME, columns, version=1),
            "gRPC gateway": lambda: through.predict(NAME, named),
            "REST server": _poster(server.rest, row),
            "REST gateway": _poster(running.rest, {"id": "a", **row}),
        }
        times_ms: dict[str, list[float]] = {name: [] for name in asks}
        for turn in range(TURNS + 1):
            for name, ask in asks.items():
                measured = [_took_ms(ask) for _ in range(REQUESTS)]
                if turn:  # the first is for connections and caches
                    times_ms[name] += measured
    return times_ms


def _poster(url: str, row: dict[str, Any]) -> Ask:
    """Posts a row over a connection that stays open."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    given = {name: 0.0 if value is None and SIGNATURE.get(name) == "float32" else value for name, value in row.items()}
    body = json.dumps({"instances": [given]})

    def post() -> None:
        connection.request("POST", f"/v1/models/{NAME}:predict", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise RuntimeError(content.decode(errors="replace"))

    return post


async def _stream(running: RunningGateway, row: dict[str, Any]) -> dict[str, float]:
    rows = [{**row, "id": f"e{number}"} for number in range(1000)]
    async with Load(running.rest, NAME, rows, "id", RATE) as load:
        await asyncio.sleep(2)
        load.take()
        await asyncio.sleep(STREAM_S)
        found = load.take()
    return {
        "requests": found.requests,
        "failed": found.failed.total(),
        "p50_ms": found.quantile_ms(0.5),
        "p99_ms": found.quantile_ms(0.99),
    }


def _took_ms(ask: Ask) -> float:
    began = time.perf_counter()
    ask()
    return (time.perf_counter() - began) * 1e3


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]
