"""Waits in the triggerer until partitions or files are there."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_ml.hooks.readiness import Readiness, Wanted
from airflow_ml.lifecycle.errors import AirflowMLError


class ReadinessTrigger(BaseTrigger):
    """Fires when everything is there, or at the deadline.

    The deadline is absolute and kept here: Airflow enforces no timeout of a deferred task in time, and a triggerer that
    restarts must not start to wait anew.

    Args:
        wanted: `Wanted` values as dictionaries.
        deadline: Seconds since the epoch.
        poll_s: Seconds between looks.
    """

    def __init__(self, wanted: list[dict[str, Any]], deadline: float, poll_s: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wanted = wanted
        self.deadline = deadline
        self.poll_s = poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Everything, so that another triggerer can go on."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return path, {"wanted": self.wanted, "deadline": self.deadline, "poll_s": self.poll_s}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yields one event: ready, timeout with what is missing, or error."""
        readiness = Readiness([Wanted.model_validate(want) for want in self.wanted])
        while True:
            try:
                # Listing a folder may block for long on a network file system; the triggerer serves many.
                missing = await asyncio.to_thread(readiness.missing)
            except AirflowMLError as error:
                yield TriggerEvent({"status": "error", **error.to_dict()})  # type: ignore[no-untyped-call]
                return
            if not missing:
                yield TriggerEvent({"status": "ready"})  # type: ignore[no-untyped-call]
                return
            left = self.deadline - time.time()
            if left <= 0:
                yield TriggerEvent({"status": "timeout", "missing": [want.model_dump() for want in missing]})  # type: ignore[no-untyped-call]
                return
            await asyncio.sleep(min(self.poll_s, left))
