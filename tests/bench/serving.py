"""Serving: one row a request over gRPC, against a plain TensorFlow ``Session`` loop, which is the limit, in one run.

The network has the flights' inputs and the default size; it is not trained, because weights do not change the cost. The
loop feeds the same row to the same SavedModel in a process of its own, with nothing around it: no network, no messages.
Where Google's binary is on PATH it is measured instead of the stand-in, and named.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from airflow_ml.examples.flights.model import flights
from airflow_ml.serving.sandbox import RunningServer, model_server
from airflow_ml.serving.server import is_real
from tests.bench.base import export_untrained
from tests.bench.report import Cell, Report, Table

FLYING = (1, 4, 16, 64)
"""Requests in flight at once."""

KINDS = {"one by one": (), "together": ("--enable_batching",)}
"""With what flags: whether dynamic batching wins is a line of the table."""

SECONDS = 6.0
TOGETHER = 250_000
SETTLED = 50_000
"""Requests over which memory is watched, and those of them that fill pools and caches; its slope over the others tells
what a million would do."""


def run() -> Report:
    """The limit, throughput by concurrency, latency at half of the goal, and memory."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        saved_model = export(folder / "saved_model")
        request = folder / "request"
        request.write_bytes(one_row(saved_model))
        limit = _child("session_loop", str(saved_model))
        cells: list[tuple[Cell, ...]] = [
            ("Session loop, no server", limit["per_s"], 1.0, limit["p50_ms"], limit["p99_ms"])
        ]
        details: dict[str, Any] = {"session_loop": limit, "real_binary": is_real()}
        for kind, flags in KINDS.items():
            with model_server(saved_model, model="m", version=1, flags=flags) as server:
                for flying in FLYING:
                    details[f"{kind}_{flying}"] = found = load(server, request, "closed", flying)
                    cells.append(_row(f"{kind}, {flying} in flight", found, limit))
                details[f"{kind}_half"] = load(server, request, "open", 1000)
                cells.append(_row(f"{kind}, 1,000 req/s sent", details[f"{kind}_half"], limit))
                if not flags:
                    details["memory"] = memory(server, request)
        name = "tensorflow_model_server" if is_real() else "the stand-in"
    table = Table(
        f"Serving one row over gRPC: {name} against a plain Session loop (goals: 2,000 req/s; p99 < 10 ms at 1,000)",
        ("what", "req/s", "of the loop", "p50 ms", "p99 ms"),
        tuple(cells),
    )
    details["mib_per_million"] = grows = slope([seen for seen in details["memory"] if seen[0] >= SETTLED]) * 1e6
    grown = Table(
        f"Memory of the server (goal: flat over a million requests; seen: {grows:+.0f} MiB per million)",
        ("after requests", "MiB"),
        tuple((int(at), mib) for at, mib in details["memory"]),
    )
    notes = (
        "client and server share the machine's cores; the client sends bytes that it made before",
        f"each row {SECONDS:.0f} s; sent at a rate, an answer's time counts from when its request was due",
    )
    return Report("serving", (table, grown), notes, details)


def _row(what: str, found: dict[str, float], limit: dict[str, float]) -> tuple[Cell, ...]:
    return (what, found["per_s"], found["per_s"] / limit["per_s"], found["p50_ms"], found["p99_ms"])


def export(destination: Path) -> Path:
    """A SavedModel of the built-in network with the flights' inputs, fitted to random columns."""
    import numpy as np

    draw = np.random.default_rng(0)
    texts = np.array([f"v{n}" for n in range(100)], dtype=object)
    columns: dict[str, Any] = {name: draw.choice(texts, 5000) for name in flights.features.categorical}
    columns |= {name: draw.normal(size=5000) for name in flights.features.numeric}
    return export_untrained(columns, destination)


def one_row(saved_model: Path) -> bytes:
    """A request for one row, as bytes."""
    from airflow_ml.serving.calls import Target
    from airflow_ml.serving.grpc_client import GrpcSpeaker

    return bytes(GrpcSpeaker("").predict(Target("m"), row()).request.SerializeToString())


def row() -> dict[str, Any]:
    """One row of the flights' inputs."""
    import numpy as np

    columns: dict[str, Any] = {name: np.array(["v1"], dtype=object) for name in flights.features.categorical}
    return columns | {name: np.array([0.5], dtype=np.float32) for name in flights.features.numeric}


def load(server: RunningServer, request: Path, mode: str, amount: float, seconds: float = SECONDS) -> dict[str, float]:
    """Load from a process of its own."""
    command = [sys.executable, "-m", "tests.bench.load", server.grpc.removeprefix("grpc://"), str(request), mode]
    done = subprocess.run([*command, str(amount), str(seconds)], stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def memory(server: RunningServer, request: Path, together: int = TOGETHER) -> list[tuple[float, float]]:
    """Resident memory in MiB after so many requests, again and again."""
    asked, seen = 0.0, [(0.0, resident_mib(server.pid))]
    while asked < together:
        asked += load(server, request, "closed", 32, 10.0)["requests"]
        seen.append((asked, resident_mib(server.pid)))
        print(f"  {asked:,.0f} requests: {seen[-1][1]:.0f} MiB", flush=True)
    return seen


def slope(points: list[tuple[float, float]]) -> float:
    """Of the line that fits points best, in units of y for one of x."""
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def resident_mib(pid: int) -> float:
    """What a process holds now."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmRSS:"))) / 2**10


def session_loop(saved_model: str) -> None:
    """The limit: the same row, again and again, through a session and nothing else."""
    import time

    from airflow_ml.serving.saved_model import DEFAULT_SIGNATURE
    from airflow_ml.serving.saved_model import SavedModel as Loaded

    model = Loaded(saved_model)
    signature = model.signatures[DEFAULT_SIGNATURE]
    run = model.prepared(signature, tuple(signature.outputs), inline=True)  # as quick as Python gets
    values = [row()[name] for name in signature.inputs]
    for _ in range(200):
        run(*values)
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while (began := time.perf_counter()) < end:
        run(*values)
        times.append(time.perf_counter() - began)
    ordered = sorted(times)
    print(
        json.dumps(
            {
                "per_s": len(times) / sum(times),
                "p50_ms": ordered[len(ordered) // 2] * 1e3,
                "p99_ms": ordered[int(len(ordered) * 0.99)] * 1e3,
            }
        )
    )


def _child(function: str, argument: str) -> dict[str, float]:
    """Call a function of this module in a fresh interpreter, from which its answer comes as the last line."""
    code = f"from tests.bench.serving import {function}; {function}({argument!r})"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
