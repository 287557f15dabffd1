"""The process that brings a gateway's spool into the lake: ``python -m … TABLE ROOT WRITER``.

It is apart from the gateway so that neither Arrow's memory nor a slow disk is felt by a request. Each line on its
standard input says that a segment was closed; the end of the input says that the gateway is gone, in whatever way: what
it left is committed, then this process ends. It tells what it did in lines of JSON.
"""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow_ml.gateway.records import tables_of
from airflow_ml.gateway.spool import Segment, orphans, segments
from airflow_ml.lake import LakeTable
from airflow_ml.lake.appends import append, compact
from airflow_ml.lifecycle.errors import AirflowMLError

ADOPT_EVERY_S = 30.0
"""How often it looks for the spools of writers that died."""

COMPACT_EVERY_S = 3600.0
"""How often it rewrites small files: a day of batches is thousands of them."""

_RETRY_S = 2.0


def main(table_path: Path, root: Path, writer: str) -> None:
    """Commit until the gateway is gone."""
    # It ends when the gateway does, and not before: a signal to the whole group must not lose what is spooled.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    table, own = LakeTable(table_path), root / writer
    adopted = -ADOPT_EVERY_S
    compacted = time.monotonic()
    gone = False
    while True:
        _tell(commit_all(table, own, with_open=gone), recovered=False)
        if gone:
            break
        if time.monotonic() - adopted >= ADOPT_EVERY_S:
            adopted = time.monotonic()
            for folder in orphans(root):
                _tell(commit_all(table, folder, with_open=True), recovered=True)
        if time.monotonic() - compacted >= COMPACT_EVERY_S:
            compacted = time.monotonic()
            compact(table)
        gone = _heard_end(_RETRY_S if any(segment.closed for segment in segments(own)) else ADOPT_EVERY_S)
    if not segments(own):
        (own / "lock").unlink()
        own.rmdir()


def commit_all(table: LakeTable, folder: Path, with_open: bool) -> Iterator[dict[str, Any]]:
    """Commit a writer's segments in their order, up to the first that cannot be.

    Args:
        table: Where to.
        folder: Of the writer.
        with_open: Its last segment, too: the writer is dead.

    Yields:
        What was done: ``rows``, ``torn`` and ``bytes`` of a segment, or ``failed``.
    """
    for segment in segments(folder):
        if not (segment.closed or with_open):
            return
        try:
            size = segment.path.stat().st_size
            rows, torn = _commit(table, folder.name, segment)
        except Exception as error:
            # Not skipped: the table takes a writer's batches in their order, or not at all. But a process that died of
            # it would not come to the batches of other writers, either.
            yield {"failed": str(error) if isinstance(error, AirflowMLError) else repr(error)}
            return
        yield {"rows": rows, "torn": torn, "bytes": size}


def _commit(table: LakeTable, writer: str, segment: Segment) -> tuple[int, int]:
    with segment.path.open("rb") as file:
        tables, torn = tables_of(file)
    if tables:
        append(table, tables, f"gateway-{writer}", segment.number)
    segment.path.unlink()
    return sum(content.num_rows for content in tables.values()), torn


def _heard_end(wait_s: float) -> bool:
    """Wait for a line; whether the input ended instead."""
    ready, _, _ = select.select([sys.stdin], [], [], wait_s)
    return bool(ready) and not os.read(sys.stdin.fileno(), 4096)


def _tell(done: Iterator[dict[str, Any]], recovered: bool) -> None:
    for each in done:
        try:
            print(json.dumps({**each, "recovered": recovered}), flush=True)
        except OSError:  # nobody listens any more: the gateway is gone
            sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: SIM115


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
