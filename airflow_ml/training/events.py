"""Events of a training: JSON lines from the ranks to their launcher, through a pipe that it opened.

Kinds: ``started``, ``progress`` (every few seconds), ``epoch``, ``checkpoint``, ``resumed``, ``finished`` from rank 0,
``failed`` and, each second, ``alive`` from any rank, ``warm`` from a process that is
none yet, and ``usage`` from the launcher itself.
"""

import json
import math
import os
from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
OnEvent = Callable[[Event], None]

_LONGEST = 3500
"""Bytes of a line: below PIPE_BUF (4096 on Linux), so that lines of several ranks never mix."""


class EventWriter:
    """Writes events of one rank.

    Args:
        descriptor: Of the pipe; None drops events.
        rank: Who writes.
    """

    def __init__(self, descriptor: int | None, rank: int) -> None:
        self._descriptor = descriptor
        self._rank = rank

    def send(self, kind: str, **facts: Any) -> None:
        """Write one event. Numbers that are not finite become null; a text that is too long keeps its end."""
        if self._descriptor is None:
            return
        event = {"event": kind, "rank": self._rank, **{name: _finite(value) for name, value in facts.items()}}
        line = json.dumps(event).encode()
        if len(line) > _LONGEST:
            # JSON escapes take up to six bytes a character.
            texts = {name: value[-_LONGEST // 8 :] for name, value in event.items() if isinstance(value, str)}
            line = json.dumps({**event, **texts}).encode()
        os.write(self._descriptor, line + b"\n")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
