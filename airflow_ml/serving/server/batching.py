"""Requests that arrive together are run together: one call of TensorFlow for many rows.

A call costs much the same for one row as for fifty, so this is what makes a busy server quick. Nobody waits for company
that may never come: while one batch runs in a thread of its version, the event loop goes on taking requests, and what
has arrived when the batch is done is the next one. So a request that is alone is run at once, and batches grow with the
load by themselves. As in TF Serving it is asked for by a flag, because only whoever made a model knows that its rows do
not depend on each other.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/batching/README.md
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from functools import partial
from typing import Any

from airflow_ml.serving.server import api
from airflow_ml.serving.server.core import Core
from airflow_ml.serving.server.rows import Sent

#: Requests that are enough for one call, whatever else waits.
MOST = 64

_Key = tuple[bytes, tuple[str, ...]]
_Waiting = list[tuple[Sent, "asyncio.Future[Any]"]]


class Batcher:
    """Predict requests of one event loop, whose calls of the batcher are made in it.

    Args:
        core: The models.
        loop: The loop.
    """

    def __init__(self, core: Core, loop: asyncio.AbstractEventLoop) -> None:
        self._core = core
        self._loop = loop
        self._waiting: dict[_Key, _Waiting] = {}
        self._running: set[_Key] = set()

    async def predict(self, request: Sent) -> Any:
        """Answer a ``PredictRequest``, perhaps together with others."""
        key = (request.message.model_spec.SerializeToString(), tuple(request.message.output_filter))
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.setdefault(key, []).append((request, answer))
        if key not in self._running:
            self._running.add(key)
            self._loop.call_soon(self._run, key)  # after those whose message is here, too
        return await answer

    def _run(self, key: _Key) -> None:
        """Run what waits; if nothing does, the next request starts anew."""
        waiting = self._waiting.pop(key, [])
        batch, rest = waiting[:MOST], waiting[MOST:]
        if rest:
            self._waiting[key] = rest
        batch = [(request, answer) for request, answer in batch if not answer.done()]  # else its caller has gone
        if not batch:
            self._running.discard(key)
            return
        requests = [request for request, _ in batch]
        try:
            loan = self._core.lend(requests[0].message.model_spec)
        except Exception as error:
            self._done(key, batch, [error] * len(batch))
            return
        done = loan.run(partial(api.predict_together, loan.servable, requests))
        done.add_done_callback(partial(self._hand_over, key, batch))

    def _hand_over(self, key: _Key, batch: _Waiting, done: Future[list[Any]]) -> None:
        """From the version's thread into the loop."""
        error = done.exception()
        answers: list[Any] = done.result() if error is None else [error] * len(batch)
        self._loop.call_soon_threadsafe(self._done, key, batch, answers)

    def _done(self, key: _Key, batch: _Waiting, answers: list[Any]) -> None:
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():  # its caller has gone
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        self._run(key)
