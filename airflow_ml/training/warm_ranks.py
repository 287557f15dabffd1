"""Processes of ranks as an agent holds them: started warm, told once what they are, ended with what they started."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

from airflow_ml.training.failures import LOG_LINES
from airflow_ml.training.ranks import EVENTS, PARENT
from airflow_ml.training.wire import LONGEST
from airflow_ml.training.world import World

LAST_LINES_S = 0.3
"""How long what an ended process has written may take to be read."""
_PIPE = 1 << 16


class Rank:
    """One process: warm, then told what to do.

    Args:
        process: The process.
        events: Reading end of the pipe of its events.
        output: Reading end of the pipe of its log.
        orders: Writing end of its standard input.
    """

    # Pipes of our own: asyncio's `wait` waits for the end of its pipes, too, which a rank's children may hold open.

    def __init__(self, process: asyncio.subprocess.Process, events: int, output: int, orders: int) -> None:
        self.process = process
        self.orders = orders
        self.tail: deque[str] = deque(maxlen=LOG_LINES)
        self.events: asyncio.Queue[bytes] = asyncio.Queue()
        self.warmed = asyncio.Event()
        self._log = asyncio.create_task(self._follow_log(output))
        self._told = asyncio.create_task(self._follow_events(events))

    @classmethod
    async def warm(cls, world: World) -> "Rank":
        """Start a process that imports what a rank needs."""
        events, its_events = os.pipe()
        output, its_output = os.pipe()
        its_orders, orders = os.pipe()
        threads = str(world.threads)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "airflow_ml.training.warm",
            stdin=its_orders,
            stdout=its_output,
            stderr=asyncio.subprocess.STDOUT,
            env={
                **os.environ,
                # Read when torch is imported.
                "OMP_NUM_THREADS": threads,
                "MKL_NUM_THREADS": threads,
                "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
                EVENTS: str(its_events),
                PARENT: str(os.getpid()),
            },
            pass_fds=(its_events,),
            process_group=0,
        )
        for descriptor in (its_events, its_output, its_orders):
            os.close(descriptor)
        return cls(process, events, output, orders)

    def tell(self, environment: dict[str, str], job: Path) -> None:
        """Make it the rank that it is to be."""
        line = json.dumps({"environment": environment, "job": str(job)})
        with contextlib.suppress(ConnectionError):
            os.write(self.orders, line.encode() + b"\n")

    async def is_warm(self) -> bool:
        """Wait until it is; False when it has ended instead."""
        warmed, ended = asyncio.create_task(self.warmed.wait()), asyncio.create_task(self.process.wait())
        await asyncio.wait({warmed, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (warmed, ended):
            task.cancel()
        return self.warmed.is_set()

    async def _follow_log(self, output: int) -> None:
        """Pass its lines on to the pod's log, and keep the last ones."""
        async with _reading(output) as reader:
            while line := await _line(reader):
                text = line.decode("utf-8", "replace").rstrip()
                self.tail.append(text)
                print(text, flush=True)

    async def _follow_events(self, descriptor: int) -> None:
        async with _reading(descriptor) as reader:
            while line := await reader.readline():
                if json.loads(line)["event"] == "warm":
                    self.warmed.set()
                else:
                    self.events.put_nowait(line)

    async def outcome(self) -> AsyncIterator[bytes | int]:
        """Its events, as they come, and then its exit code."""
        ended = asyncio.create_task(self.process.wait())
        while True:
            event = asyncio.create_task(self.events.get())
            await asyncio.wait({event, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not event.done():
                # What it wrote before it ended is on its way; a child that lives on may hold the pipes open.
                await asyncio.wait({self._told, self._log}, timeout=LAST_LINES_S)
                event.cancel()
                while not self.events.empty():
                    yield self.events.get_nowait()
                yield await ended
                return
            yield event.result()

    async def end(self) -> None:
        """Kill it, and what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        await asyncio.wait({self._log, self._told}, timeout=LAST_LINES_S)
        self._log.cancel()
        self._told.cancel()
        os.close(self.orders)


@contextlib.asynccontextmanager
async def _reading(descriptor: int) -> AsyncIterator[asyncio.StreamReader]:
    """A pipe to be read; closed at the end."""
    reader = asyncio.StreamReader(limit=LONGEST)
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        yield reader
    finally:
        transport.close()


async def _line(output: asyncio.StreamReader) -> bytes:
    try:
        return await output.readline()
    except ValueError:  # longer than the limit: shown in part
        return await output.read(_PIPE) + b"\n"
