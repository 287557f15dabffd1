"""Waits in the triggerer until a rollout has to be looked at again."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_ml.lifecycle.errors import AirflowMLError
from airflow_ml.spec import Platform

_SETTLED_S = 6.0
"""A trigger that fires sooner after its task has deferred may fail it (apache/airflow #71580)."""


class RolloutTrigger(BaseTrigger):
    """Fires when it is time, or when somebody has changed the rollout's record or answered.

    The times are absolute and kept here: Airflow enforces no timeout of a deferred task in time, and a triggerer that
    restarts must not start to wait anew.

    Args:
        platform: Says where the record is, as a dictionary.
        model: Whose rollout.
        release: `Release.id` of what is rolled out.
        mark: Of the record, when the task has left.
        until: When it has to be looked at, in seconds since the epoch.
        deadline: Of the task; handed back with the event.
        poll_s: Seconds between looks at the record.
    """

    def __init__(
        self,
        platform: dict[str, Any],
        model: str,
        release: str,
        mark: Sequence[int],
        until: float,
        deadline: float,
        poll_s: float = 2.0,
        not_before: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.platform = platform
        self.model = model
        self.release = release
        self.mark = list(mark)
        self.until = until
        self.deadline = deadline
        self.poll_s = poll_s
        self.not_before = time.time() + _SETTLED_S if not_before is None else not_before

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Everything, so that another triggerer can go on."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        names = ("platform", "model", "release", "mark", "until", "deadline", "poll_s", "not_before")
        return path, {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yields one event: due or changed."""
        record = self._record()
        await asyncio.sleep(max(0.0, min(self.not_before, self.until) - time.time()))
        while (left := self.until - time.time()) > 0:
            # A base may lie on a network file system that hangs; the triggerer serves many.
            if list(await asyncio.to_thread(record.mark)) != self.mark:
                yield self._event("changed")
                return
            await asyncio.sleep(min(self.poll_s, left))
        yield self._event("due")

    def _event(self, status: str) -> TriggerEvent:
        return TriggerEvent({"status": status, "deadline": self.deadline})  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """The task was marked, cleared or deleted: what the model declares for that is done here, at once."""
        try:
            back = await asyncio.to_thread(self._record().interrupt, self.release)
        except AirflowMLError as error:
            self.log.error("the traffic could not be put back: %s", error)
            return
        self.log.warning(
            "the task was stopped: %s", "all traffic is back on stable" if back else "the next run goes on from here"
        )

    def _record(self) -> Any:
        from airflow_ml.hooks.releases import ReleaseRecord

        return ReleaseRecord(Platform.model_validate(self.platform), self.model)
