"""Requests that arrive together are run together: one call of TensorFlow for many rows.

A call costs much the same for one row as for fifty, so this is what makes a busy server quick. Nobody waits for company
that may never come: a batch is what has arrived, and who is at the door. A call is announced when its headers are here;
its message follows within a fraction of a millisecond, and is waited for. So a request that is alone is run at once,
and a burst is gathered however the event loop deals it out. As in TF Serving it is asked for by a flag, because only
whoever made a model knows that its rows do not depend on each other.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/batching/README.md
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from airflow_ml.serving.server import api
from airflow_ml.serving.server.core import Core

#: Requests that are enough for one call, whatever else arrives.
MOST = 64

#: The longest that a request waits for those at the door, in seconds; a caller may go away between its headers and its
#: message.
LONGEST_S = 0.001


class Batcher:
    """Predict requests of one event loop.

    Args:
        core: The models.
        loop: The loop.
    """

    def __init__(self, core: Core, loop: asyncio.AbstractEventLoop) -> None:
        self._core = core
        self._loop = loop
        self._waiting: dict[tuple[bytes, tuple[str, ...]], list[tuple[Any, asyncio.Future[Any]]]] = {}
        self._at_the_door = 0

    def announced(self) -> None:
        """A call has begun; its message is on the way."""
        self._at_the_door += 1

    def arrived(self) -> None:
        """The message of a call is here."""
        self._at_the_door = max(self._at_the_door - 1, 0)

    async def predict(self, request: Any) -> Any:
        """Answer a ``PredictRequest``, perhaps together with others."""
        key = (request.model_spec.SerializeToString(), tuple(request.output_filter))
        answer: asyncio.Future[Any] = self._loop.create_future()
        together = self._waiting.setdefault(key, [])
        together.append((request, answer))
        if len(together) == 1:
            self._run(key, time.perf_counter() + LONGEST_S)
        return await answer

    def _run(self, key: tuple[bytes, tuple[str, ...]], end: float) -> None:
        """Run what has arrived, unless more is about to."""
        if self._at_the_door and len(self._waiting[key]) < MOST:
            if time.perf_counter() < end:
                self._loop.call_soon(self._run, key, end)
                return
            self._at_the_door = 0  # who has not come by now has gone, or is not waited for
        waiting = self._waiting.pop(key)
        answers: list[Any]
        try:
            answers = api.predict_together(self._core, [request for request, _ in waiting])
        except Exception as error:
            answers = [error] * len(waiting)
        for (_, future), answer in zip(waiting, answers, strict=True):
            if future.done():  # its caller has gone
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
