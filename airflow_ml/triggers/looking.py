"""Waits in the triggerer until a question about what is served is answered."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_ml.hooks.looks import question_of
from airflow_ml.lifecycle.errors import AirflowMLError


class LookTrigger(BaseTrigger):
    """Fires when it is so, when it can be so no more, or at the deadline, which is absolute.

    Args:
        question: `VersionServed` or `TrafficReached`, as a dictionary.
        deadline: Seconds since the epoch.
        poll_s: Seconds between looks.
    """

    def __init__(self, question: dict[str, Any], deadline: float, poll_s: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.question = question
        self.deadline = deadline
        self.poll_s = poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Everything, so that another triggerer can go on."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return path, {"question": self.question, "deadline": self.deadline, "poll_s": self.poll_s}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yields one event: ready, failed, timeout or error, with what was seen last."""
        question = question_of(self.question)
        while True:
            try:
                seen = await question.alook()
            except AirflowMLError as error:
                yield TriggerEvent({"status": "error", **error.to_dict()})  # type: ignore[no-untyped-call]
                return
            left = self.deadline - time.time()
            if seen.status != "waiting" or left <= 0:
                status = "timeout" if seen.status == "waiting" else seen.status
                yield TriggerEvent({"status": status, "text": seen.text})  # type: ignore[no-untyped-call]
                return
            await asyncio.sleep(min(self.poll_s, left))
