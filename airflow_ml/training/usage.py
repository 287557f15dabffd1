"""What a training takes: seconds of cores and of GPUs, from the start of each process or pod to its end."""

import json
from pathlib import Path

from airflow_ml.spec.base import Frozen
from airflow_ml.storage import write_atomically
from airflow_ml.training.events import Event

USAGE = "usage"
"""Kind of the event that tells it, every few seconds and at the end."""
EVERY_S = 10.0


class Usage(Frozen):
    """What was taken.

    Attributes:
        cpu_s: Seconds of cores that were set aside.
        gpu_s: Seconds of GPUs.
    """

    cpu_s: float = 0.0
    gpu_s: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(cpu_s=self.cpu_s + other.cpu_s, gpu_s=self.gpu_s + other.gpu_s)


class Meter:
    """Adds up what processes or pods take while they are there."""

    def __init__(self) -> None:
        self._ended = Usage()
        self._running: dict[object, tuple[float, int, int]] = {}

    def begin(self, who: object, since: float, cores: int, gpus: int) -> None:
        """Somebody is there, with so many cores and GPUs, since a moment of a clock that only goes forward."""
        self._running[who] = (since, cores, gpus)

    def end(self, who: object, now: float) -> None:
        """Somebody is gone; whoever was not there is not missed."""
        if who in self._running:
            self._ended += _taken(self._running.pop(who), now)

    def event(self, now: float) -> Event:
        """All that was taken until now."""
        usage = sum((_taken(each, now) for each in self._running.values()), self._ended)
        return {"event": USAGE, "rank": -1, **usage.model_dump()}


def _taken(running: tuple[float, int, int], now: float) -> Usage:
    since, cores, gpus = running
    return Usage(cpu_s=(now - since) * cores, gpu_s=(now - since) * gpus)


class Ledger:
    """What all attempts of one training have taken: one file for each, written as it goes on.

    Args:
        folder: Outlives the attempts.
        attempt: This one.
    """

    def __init__(self, folder: Path, attempt: str) -> None:
        self._folder = folder
        self._path = folder / f"{attempt}.json"

    def note(self, event: Event) -> None:
        """Keep what this attempt has taken so far."""
        usage = Usage(cpu_s=event["cpu_s"], gpu_s=event["gpu_s"])
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, usage.model_dump_json())

    def total(self) -> Usage:
        """Of all attempts."""
        found = (Usage.model_validate(json.loads(path.read_text())) for path in self._folder.glob("*.json"))
        return sum(found, Usage())
