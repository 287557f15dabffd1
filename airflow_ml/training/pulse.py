"""A rank's pulse: each second it tells its launcher that it runs, how far it is, and where when it is no further.

A thread of its own tells it, so a rank whose program sleeps says where; one whose process is stopped says nothing.
"""

import os
import sys
import threading
from types import FrameType

from airflow_ml.training.events import EventWriter

ALIVE = "alive"
"""Kind of the event."""
_EVERY_S = 1.0
_LIBRARIES = f"{os.sep}site-packages{os.sep}"
_HOROVOD = f"{os.sep}horovod{os.sep}"


class Pulse:
    """Counts what the main thread does, and tells it.

    Args:
        events: Where it is told.

    Attributes:
        epoch: That is trained; 0 before the first.
        step: Of that epoch, from 1.
        busy: With what has no steps, and is no user's program: that the process runs is enough.
    """

    def __init__(self, events: EventWriter) -> None:
        self.epoch = self.step = 0
        self.busy = False
        self._events = events
        self._moves = 0
        self._main = threading.get_ident()

    def move(self, epoch: int | None = None, step: int = 0) -> None:
        """The main thread got on; with an epoch, to this step of it."""
        self._moves += 1
        if epoch is not None:
            self.epoch, self.step = epoch, step

    def start(self) -> None:
        """Begin to tell."""
        threading.Thread(target=self._tell, name="pulse", daemon=True).start()

    def _tell(self) -> None:
        told = -1
        pause = threading.Event()
        while True:
            self._moves += self.busy
            waits, where = (False, "") if told != self._moves else _place(sys._current_frames().get(self._main))
            told = self._moves
            self._events.send(ALIVE, moves=told, epoch=self.epoch, step=self.step, waits=waits, where=where)
            pause.wait(_EVERY_S)


def _place(frame: FrameType | None) -> tuple[bool, str]:
    """Whether a thread waits for other ranks (Horovod is what it called last), and its line in a program of ours."""
    waits = frame is not None and _HOROVOD in frame.f_code.co_filename
    last = ""
    while frame is not None:
        line = f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})"
        if _LIBRARIES not in frame.f_code.co_filename:
            return waits, line
        last = last or line
        frame = frame.f_back
    return waits, last
