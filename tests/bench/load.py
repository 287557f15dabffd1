"""Load for a model server, from a process of its own: requests as bytes, so that the client costs as little as it can.

``python -m tests.bench.load ADDRESS REQUEST_FILE MODE AMOUNT SECONDS`` prints one line of JSON. Mode ``closed`` keeps
``AMOUNT`` requests in flight for ``SECONDS``; mode ``open`` sends ``AMOUNT`` a second, whatever the server does, and
takes the time of each from the moment when it was due.
"""

import asyncio
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import uvloop

PREDICT = "/tensorflow.serving.PredictionService/Predict"


async def closed(call: Any, request: bytes, flying: int, seconds: float) -> list[float]:
    """The time of each answer, in seconds."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def ask() -> None:
        while (began := time.perf_counter()) < end:
            await call(request)
            times.append(time.perf_counter() - began)

    await asyncio.gather(*(ask() for _ in range(flying)))
    return times


async def steady(call: Any, request: bytes, rate: float, seconds: float) -> list[float]:
    """The time of each answer, from when its request was due, in seconds."""
    times: list[float] = []
    began = time.perf_counter()
    tasks: set[asyncio.Task[None]] = set()

    async def ask(due: float) -> None:
        try:
            await call(request)
        except grpc.aio.AioRpcError:  # gRPC turns away what a server cannot take: it never came
            times.append(math.inf)
        else:
            times.append(time.perf_counter() - due)

    for number in range(int(rate * seconds)):
        due = began + number / rate
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(ask(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    while tasks:
        await asyncio.gather(*tasks)
    return times


async def run(address: str, request: bytes, mode: str, amount: float, seconds: float) -> dict[str, float]:
    """What came of it."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(PREDICT)  # bytes in, bytes out
        await closed(call, request, 4, 0.5)  # the connection, and the model's first runs
        began = time.perf_counter()
        times = await (
            closed(call, request, int(amount), seconds) if mode == "closed" else steady(call, request, amount, seconds)
        )
        took = time.perf_counter() - began
    ordered = sorted(times)
    refused = sum(map(math.isinf, times))
    return {
        "requests": len(times),
        "refused": refused,
        "per_s": (len(times) - refused) / took,
        "p50_ms": ordered[len(ordered) // 2] * 1e3,
        "p99_ms": ordered[int(len(ordered) * 0.99)] * 1e3,
        "max_ms": ordered[-1] * 1e3,
    }


if __name__ == "__main__":
    address, file, mode, amount, seconds = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(run(address, Path(file).read_bytes(), mode, float(amount), float(seconds)))
    print(json.dumps(found))
