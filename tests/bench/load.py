"""Load for a model server, from a process of its own, which costs as little as it can.

``python -m tests.bench.load ADDRESS REQUEST_FILE MODE AMOUNT SECONDS`` prints one line of JSON. Mode ``closed`` keeps
``AMOUNT`` requests in flight for ``SECONDS``; mode ``open`` sends ``AMOUNT`` a second, whatever the server does, and
takes the time of each from the moment when it was due.

The frames of a request are the same each time but for the number of its stream, so they are made once. Python's own
gRPC client needs as much of a core for a request as the server may: on two cores it would measure itself.

Source: https://www.rfc-editor.org/rfc/rfc9113 (HTTP/2)
Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import asyncio
import json
import math
import struct
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import uvloop

PREDICT = "/tensorflow.serving.PredictionService/Predict"

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65_535


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame of HTTP/2."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


class Connection(asyncio.Protocol):
    """Sends one request again and again over one connection.

    Args:
        address: ``host:port``.
        request: The message.
    """

    def __init__(self, address: str, request: bytes) -> None:
        def text(value: str) -> bytes:
            return bytes([len(value)]) + value.encode()

        # HPACK without a table: POST and http by number, the others as they are.
        headers = b"\x83\x86\x04" + text(PREDICT) + b"\x01" + text(address)
        headers += b"\x00" + text("te") + text("trailers") + b"\x00" + text("content-type") + text("application/grpc")
        message = b"\0" + struct.pack("!I", len(request)) + request
        self._frames = (frame(_HEADERS, _END_HEADERS, 0, headers), frame(_DATA, _END_STREAM, 0, message))
        self._cost = len(request) + 5
        self._window = _FIRST_WINDOW
        self._stream = -1
        self._held: deque[asyncio.Future[bool]] = deque()
        self._flying: dict[int, asyncio.Future[bool]] = {}
        self._answered: set[int] = set()
        self._buffer = b""
        self._out: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        """Agree on windows that are never full."""
        self._transport = transport
        settings = frame(_SETTINGS, 0, 0, struct.pack("!HI", 4, _LARGEST_WINDOW))
        more = frame(_WINDOW, 0, 0, struct.pack("!I", _LARGEST_WINDOW - _FIRST_WINDOW))
        transport.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + more)

    def ask(self) -> asyncio.Future[bool]:
        """Send the request; tells whether it was answered, or else refused."""
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._held.append(answered)
        self._send()
        return answered

    def data_received(self, data: bytes) -> None:
        """Take what has come, and say who was answered."""
        data, at = self._buffer + data, 0
        while len(data) - at >= 9:
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if end > len(data):
                break
            kind, flags, stream = struct.unpack_from("!BBI", data, at + 3)
            self._take(kind, flags, stream, data[at + 9 : end])
            at = end
        self._buffer = data[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._answered.add(stream)  # who is refused gets headers only
        elif kind == _RESET or (kind == _HEADERS and flags & _END_STREAM):
            answered = stream in self._answered
            self._answered.discard(stream)
            waiting = self._flying.pop(stream, None)  # gRPC may reset a stream that it has ended
            if waiting is not None:
                waiting.set_result(answered and kind == _HEADERS)
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._write(frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _WINDOW and stream == 0:
            self._window += int.from_bytes(payload, "big")
            self._send()
        elif kind == _GOAWAY:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Let nobody wait for what never comes."""
        for waiting in (*self._flying.values(), *self._held):
            waiting.set_exception(ConnectionError("the server ended the connection"))

    def _send(self) -> None:
        while self._held and self._window >= self._cost:
            self._window -= self._cost
            self._stream += 2
            self._flying[self._stream] = self._held.popleft()
            number = self._stream.to_bytes(4, "big")
            self._write(b"".join(part for made in self._frames for part in (made[:5], number, made[9:])))

    def _write(self, content: bytes) -> None:
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(content)

    def _flush(self) -> None:
        self._transport.write(b"".join(self._out))
        self._out.clear()


async def closed(connection: Connection, flying: int, seconds: float) -> list[float]:
    """The time of each answer, in seconds; infinity where there is none."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def ask() -> None:
        while (began := time.perf_counter()) < end:
            answered = await connection.ask()
            times.append(time.perf_counter() - began if answered else math.inf)

    await asyncio.gather(*(ask() for _ in range(flying)))
    return times


async def steady(connection: Connection, rate: float, seconds: float) -> list[float]:
    """The time of each answer, from when its request was due, in seconds; infinity where there is none."""
    times: list[float] = []
    began = time.perf_counter()
    tasks: set[asyncio.Task[None]] = set()

    async def ask(due: float) -> None:
        answered = await connection.ask()
        times.append(time.perf_counter() - due if answered else math.inf)

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
    host, _, port = address.rpartition(":")
    transport, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(address, request), host, int(port)
    )
    await closed(connection, 4, 0.5)  # the model's first runs
    began = time.perf_counter()
    times = await (
        closed(connection, int(amount), seconds) if mode == "closed" else steady(connection, amount, seconds)
    )
    took = time.perf_counter() - began
    transport.close()
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
