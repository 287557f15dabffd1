"""A compute of a kind that this package does not have: jobs of a queue, which outlive the task that sent them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_ml.compute import LocalProcess
from airflow_ml.compute.exchange import read_response


class Queue(LocalProcess):
    """Processes stand for its jobs."""

    outlives_task: ClassVar[bool] = True
    trigger: ClassVar[str | None] = "tests.support.elsewhere.QueueTrigger"


class QueueTrigger(BaseTrigger):
    """Waits for the answer."""

    def __init__(self, handle: dict[str, Any], spec: dict[str, Any], deadline: float, secrets: Sequence[str]) -> None:
        super().__init__()
        self.asked = {"handle": handle, "spec": spec, "deadline": deadline, "secrets": list(secrets)}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """As it was made."""
        return f"{__name__}.QueueTrigger", self.asked

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event; leaves word that it waited."""
        handle = self.asked["handle"]
        Path(handle["folder"], "waited").touch()
        while read_response(handle["folder"]) is None:
            await asyncio.sleep(0.05)
        ended = {"status": "ended", "answered": True, "code": 0, "detail": "", "remedy": ""}
        yield TriggerEvent({"handle": handle} | ended)
