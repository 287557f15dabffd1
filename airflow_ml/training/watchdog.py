"""Finds the rank that hangs, out of what the pulses of all ranks say.

All ranks of a training stand still when one does, since they wait for its part of the next sum: the one that hangs is
the one that waits for nobody. A rank whose process does not run at all (stopped, or its machine hangs) is silent.
"""

from collections.abc import Collection
from dataclasses import dataclass

from airflow_ml.training.events import Event

SILENCE_S = 30.0
"""A process that has begun, and then says nothing for so long, does not run: nothing holds Python so long."""

START_S = 300.0
"""What a rank may take at least to import what it needs and to find the others."""


@dataclass(frozen=True)
class Hang:
    """A rank that hangs.

    Attributes:
        rank: Its number.
        what: What is known of it.
        epoch: In which it hangs.
        step: At which.
    """

    rank: int
    what: str
    epoch: int
    step: int


@dataclass
class _Seen:
    heard: float
    moved: float
    moves: int = 0
    waits: bool = False
    where: str = ""
    epoch: int = 0
    step: int = 0


class Watchdog:
    """Listens to the ranks of one start.

    Args:
        ranks: How many.
        step_timeout_s: A rank that gets no further for so long hangs.
        now: Seconds of any clock that only goes forward.
    """

    def __init__(self, ranks: int, step_timeout_s: float, now: float) -> None:
        self._limit_s = step_timeout_s
        self._start_s = max(START_S, step_timeout_s)
        self._silence_s = min(SILENCE_S, step_timeout_s)
        self._seen = [_Seen(now, now) for _ in range(ranks)]

    def hear(self, event: Event, now: float) -> None:
        """Take in one event ``alive``."""
        seen = self._seen[event["rank"]]
        seen.heard = now
        if event["moves"] != seen.moves:
            seen.moves, seen.moved = event["moves"], now
        seen.waits, seen.where = event["waits"], event["where"]
        seen.epoch, seen.step = event["epoch"], event["step"]

    def hung(self, running: Collection[int], now: float) -> Hang | None:
        """The rank that hangs, if one does.

        Args:
            running: Ranks that have not ended.
            now: Of the same clock.
        """
        for rank in running:
            seen = self._seen[rank]
            silent_s = now - seen.heard
            if silent_s > (self._silence_s if seen.moves else self._start_s):
                return self._hang(rank, f"its process has not run for {silent_s:.0f} s")
        still = [
            rank
            for rank, seen in enumerate(self._seen)
            if rank in running and now - seen.moved > (self._limit_s if seen.moves else self._start_s)
        ]
        for rank in still:
            seen = self._seen[rank]
            if not seen.waits:
                return self._hang(rank, f"no progress for {now - seen.moved:.0f} s at {seen.where or 'its start'}")
        if still and len(still) == len(running):
            rank = still[0]
            places = "; ".join(f"rank {each} at {self._seen[each].where}" for each in still)
            what = f"all ranks wait for each other since {now - self._seen[rank].moved:.0f} s ({places})"
            return self._hang(rank, what)
        return None

    def _hang(self, rank: int, what: str) -> Hang:
        seen = self._seen[rank]
        return Hang(rank, what, seen.epoch, seen.step)
