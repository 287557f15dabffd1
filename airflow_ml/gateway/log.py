"""The prediction log: records go to the spool at once, and in batches to the lake by a process of their own."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path

from airflow_ml.gateway.metrics import Metrics
from airflow_ml.gateway.records import Record, line_of
from airflow_ml.gateway.spool import Spool

log = logging.getLogger(__name__)

BATCH_S = 5.0
"""Age at which a segment is committed: a day has 17,280 commits at most."""

BATCH_BYTES = 8 << 20
"""Size at which it is committed before that."""

SPOOL_BYTES = 1 << 30
"""What waits on the local disk at most while the lake cannot be written; records beyond it are lost, and counted."""

_DEAD = (OSError, RuntimeError)
"""What the pipe to a committer that died raises; the second is uvloop's."""

_END_S = 30.0
_RESTART_S = 1.0


class PredictionLog:
    """Writes records without waiting for the lake.

    Args:
        table: Folder of the Delta table.
        root: Folder of the spools, on a disk of this machine.
        model: Name, for metrics.
        metrics: Count what became of the records.
    """

    def __init__(self, table: Path, root: Path, model: str, metrics: Metrics) -> None:
        self._table, self._root = table, root
        self._rows = {
            fate: metrics.log_rows.labels(model, fate) for fate in ("spooled", "committed", "recovered", "lost")
        }
        self._failures = metrics.log_failures.labels(model)
        self._bytes = metrics.log_bytes.labels(model)
        self._pending = 0
        self._spool: Spool | None = None
        self._committer: Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    async def start(self) -> None:
        """Take a spool and start the committer.

        Raises:
            BaseError: The disk cannot be written.
        """
        self._spool = Spool(self._root)
        self._committer = await self._start_committer(self._spool)
        self._tasks = [asyncio.create_task(self._listen(self._spool)), asyncio.create_task(self._tick())]

    def write(self, record: Record) -> None:
        """Keep a record. It never fails: what the disk does not take is counted as lost."""
        spool = self._spool
        line = line_of(record)
        if spool is None or self._pending + len(line) > SPOOL_BYTES:
            self._lose("the spool is full, because the lake cannot be written")
            return
        try:
            spool.append(line)
        except OSError as error:
            self._lose(f"the spool cannot be written: {error}")
            return
        self._pending += len(line)
        self._rows["spooled"].inc()
        if spool.bytes >= BATCH_BYTES:
            self._rotate()

    async def close(self) -> None:
        """Commit all that was written; what cannot be committed in time stays for the next gateway on this disk."""
        self._closing = True
        for task in self._tasks[1:]:
            task.cancel()
        if self._spool is None or self._committer is None:
            return
        self._rotate()
        try:
            async with asyncio.timeout(_END_S):
                # One that the same signal killed before it could ignore it is followed by one that is left alone.
                while await self._ended(self._committer):
                    self._committer = await self._start_committer(self._spool)
                    self._tasks[0] = asyncio.create_task(self._listen(self._spool))
        except TimeoutError:
            log.warning("the log is not all in the lake yet; %d bytes stay in %s", self._pending, self._spool.folder)
        self._spool.release()

    async def _ended(self, committer: Process) -> int:
        """Tell the committer that no more comes, and hear it out; returns its exit status."""
        assert committer.stdin is not None
        with suppress(*_DEAD):
            committer.stdin.close()
        status = await committer.wait()
        await self._tasks[0]
        return status

    def _lose(self, why: str) -> None:
        self._rows["lost"].inc()
        log.warning("a record of the prediction log is lost: %s", why)

    def _rotate(self) -> None:
        assert self._spool is not None
        try:
            rotated = self._spool.rotate()
        except OSError as error:
            log.warning("a segment of the prediction log cannot be closed yet: %s", error)
            return
        if rotated and self._committer is not None and self._committer.stdin is not None:
            with suppress(*_DEAD):  # it is started anew
                self._committer.stdin.write(b"\n")

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(BATCH_S)
            self._rotate()
            self._bytes.set(self._pending)

    async def _listen(self, spool: Spool) -> None:
        """Count what the committer says it did; start it anew when it dies."""
        while True:
            assert self._committer is not None
            assert self._committer.stdout is not None
            async for line in self._committer.stdout:
                self._heard(line)
            if self._closing:
                return
            log.warning("the committer of the prediction log ended; starting it anew")
            await asyncio.sleep(_RESTART_S)
            if self._closing:
                return
            self._committer = await self._start_committer(spool)

    def _heard(self, line: bytes) -> None:
        said = json.loads(line)
        if "failed" in said:
            self._failures.inc()
            log.warning("a batch of the prediction log waits: %s", said["failed"])
            return
        self._rows["recovered" if said["recovered"] else "committed"].inc(said["rows"])
        if said["torn"]:
            self._rows["lost"].inc(said["torn"])
        if not said["recovered"]:
            self._pending -= said["bytes"]
            self._bytes.set(self._pending)

    async def _start_committer(self, spool: Spool) -> Process:
        command = [sys.executable, "-m", "airflow_ml.gateway.committer"]
        return await asyncio.create_subprocess_exec(
            *command, str(self._table), str(self._root), spool.writer, stdin=PIPE, stdout=PIPE, pass_fds=[spool.lock]
        )
