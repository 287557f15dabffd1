"""A signal to stop, waited for by the thread that it interrupts."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from typing import Self


class Stop:
    """As `threading.Event`, to be set by a signal handler.

    A handler runs between any two instructions of the main thread, also while that is inside of `Event.set` or
    `Event.wait` and holds the event's lock: the handler would wait for it for ever. Here is no lock, but a pipe.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    @classmethod
    def on_signals(cls) -> Self:
        """One that SIGTERM and SIGINT set, from now on."""
        stop = cls()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        return stop

    def set(self) -> None:
        """Say so. What is written is never read, so that it stays said."""
        with suppress(BlockingIOError):  # said so often that the pipe is full
            os.write(self._write, b".")

    def is_set(self) -> bool:
        """Whether it was said."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is said, or for some seconds.

        Returns:
            Whether it was said.
        """
        return bool(select.select([self._read], [], [], timeout)[0])
