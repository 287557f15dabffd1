"""Live requests around a release: a gateway, and callers who ask it about the flights of the last nights.

They run only while a release is on its way: what they cost would slow down the training before it.
"""

import asyncio
import math
import random
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_ml.examples.flights.demo.processes import process, wait_until
from airflow_ml.gateway.load import Load, Traffic
from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.errors import JobFailed
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Model

RATE = 60.0
"""Requests a second: enough for a verdict within seconds, on a machine that runs all else, too."""

_ROWS = 2000
_READY = re.compile(r"ready: grpc \S+ rest (\S+)")


@dataclass
class Callers:
    """Sends requests to a gateway, from a thread.

    Attributes:
        traffic: What became of them, once they have stopped.
    """

    url: str
    model: Model
    rows: list[dict[str, Any]]
    traffic: Traffic = field(default_factory=Traffic)
    _enough: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()), name="callers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask no more, and wait for the answers that are due."""
        self._enough.set()
        if self._thread is not None:
            self._thread.join()

    async def _ask(self) -> None:
        async with Load(self.url, self.model.name, self.rows, self.model.features.entity, RATE) as load:
            while not self._enough.is_set():
                await asyncio.sleep(0.1)
        self.traffic = load.traffic


@contextmanager
def callers(model: Model, base: Path, nights: Window, environment: Mapping[str, str], log: Path) -> Iterator[Callers]:
    """Have people ask about the flights of some nights, through a gateway of the model's champion.

    Args:
        model: With a champion.
        base: With the features of the nights.
        nights: Whose flights are asked for.
        environment: Of the command line tools.
        log: Of the gateway.

    Raises:
        JobFailed: The gateway did not start.
    """
    command = [sys.executable, "-m", "airflow_ml.cli", "gateway", model.name, "--port=0", "--grpc-port=0"]
    with process("gateway", command, environment, log) as gateway:
        rows = _rows(model, base, nights)
        wait_until(lambda: _address(log) is not None, gateway, "the gateway", log)
        asking = Callers(f"http://{_address(log)}", model, rows)
        asking.start()
        try:
            yield asking
        finally:
            asking.stop()


def _address(log: Path) -> str | None:
    found = _READY.search(log.read_text(errors="replace"))
    return found[1] if found else None


def _rows(model: Model, base: Path, nights: Window) -> list[dict[str, Any]]:
    """Raw features by name with their entity, as the gateway takes them; of all the nights, in no order."""
    names = [model.features.entity, *model.features.columns]
    table = LakeTable(base / "lake" / model.name / "features").read(nights, columns=names)
    if not table.num_rows:
        raise JobFailed(f"no features of {nights}", where=str(base), remedy="see the data DAG's runs")
    every = max(table.num_rows // _ROWS, 1)
    rows = [{name: _known(value) for name, value in row.items()} for row in table.to_pylist()[::every]]
    # In the order of the days a storm would come between what the versions before and after a promotion are asked.
    random.Random(0).shuffle(rows)
    return rows


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
