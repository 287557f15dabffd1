"""A version on trial must not take the server, which stable needs, with it.

Whoever is not stable gets few calls at a time, and when it fails again and again, only one now and then. So a version
that hangs holds a handful of the server's threads, however many requests its arm gets; the rest of them is answered by
whoever stands in for it, at once instead of after a deadline.
"""

import time
from collections.abc import Callable

AT_ONCE = 8
"""Calls under way; a version that needs 10 ms has room for 800 a second."""

IN_A_ROW = 5
"""Failures after which it is asked only to see whether it has recovered."""

_PAUSE_S, _LONGEST_S = 1.0, 30.0


class Trial:
    """Whether a version may be asked.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._under_way = 0
        self._failures = 0
        self._pause_s = _PAUSE_S
        self._next = 0.0

    def admit(self) -> bool:
        """Whether to ask it now; who is told yes tells `done`."""
        if self._under_way >= AT_ONCE:
            return False
        if self._failures >= IN_A_ROW:
            now = self._clock()
            if now < self._next:
                return False
            self._next = now + self._pause_s
            self._pause_s = min(self._pause_s * 2, _LONGEST_S)
        self._under_way += 1
        return True

    def done(self, well: bool | None) -> None:
        """A call ended: well, or not, or in a way that says nothing of the version."""
        self._under_way -= 1
        if well is None:
            return
        if well:
            self._failures, self._pause_s = 0, _PAUSE_S
            return
        self._failures += 1
        if self._failures == IN_A_ROW:
            self._next = self._clock() + self._pause_s
