"""Is a model quick enough to be asked where requests arrive? Pure.

Handing a request to another thread costs as much as a small model's answer. A quick model is asked by the thread that
took the request; one that is slow, or not known yet, by threads of its own, so that nobody waits for it.
"""

from __future__ import annotations

from collections import deque

#: A run below this is quick, in seconds.
QUICK = 0.002

#: A single run above this makes a model slow, in seconds; runs between the two are a busy machine's.
SLOW = 0.050

#: Requests above this many bytes are not judged by the runs of small ones.
SMALL_BYTES = 16_384

_REMEMBERED = 16
_ENOUGH = 3


class Pace:
    """How long the last runs of one version took."""

    def __init__(self) -> None:
        self._runs: deque[float] = deque(maxlen=_REMEMBERED)
        self.quick = False

    def observe(self, seconds: float) -> None:
        """Remember a run."""
        self._runs.append(seconds)
        # the quickest of some: contention makes a run look slower than the model is, nothing makes it look quicker
        self.quick = len(self._runs) >= _ENOUGH and min(self._runs) < QUICK and max(self._runs) < SLOW
