"""Timetables of a source that has an end.

A DAG's ``end_date`` would do for the schedule, but tasks inherit it, and a run by hand whose logical date lies after it
has no tasks at all: Airflow calls that a success. These end the schedule and nothing else.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, time
from functools import cache
from typing import Any

from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction, Timetable
from airflow.timetables.interval import CronDataIntervalTimetable
from airflow.timetables.trigger import CronTriggerTimetable

MIDNIGHT = "0 0 * * *"


class MidnightUntil(CronTriggerTimetable):
    """At 00:00 UTC of each day; the run's logical date is that midnight.

    Args:
        end: The last day.
    """

    def __init__(self, end: date) -> None:
        super().__init__(MIDNIGHT, timezone="UTC")
        self.end = end

    def serialize(self) -> dict[str, Any]:
        """The end, as ISO date."""
        return {"end": self.end.isoformat()}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> Timetable:
        """The inverse of `serialize`."""
        return _made(cls, date.fromisoformat(data["end"]))

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """The next run, or None after the end."""
        found = super().next_dagrun_info(
            last_automated_data_interval=last_automated_data_interval, restriction=restriction
        )
        return _until(found, self.end)


class DayOverUntil(CronDataIntervalTimetable):
    """When a day is over; the run's logical date is the day's 00:00 UTC.

    Args:
        end: The last day.
    """

    def __init__(self, end: date) -> None:
        super().__init__(MIDNIGHT, timezone="UTC")
        self.end = end

    def serialize(self) -> dict[str, Any]:
        """The end, as ISO date."""
        return {"end": self.end.isoformat()}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> Timetable:
        """The inverse of `serialize`."""
        return _made(cls, date.fromisoformat(data["end"]))

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """The next run, or None after the end."""
        found = super().next_dagrun_info(
            last_automated_data_interval=last_automated_data_interval, restriction=restriction
        )
        return _until(found, self.end)


@cache
def _made(kind: Callable[[date], Timetable], end: date) -> Timetable:
    """One object for all that are equal: Airflow's DAG processor decodes a DAG's timetable for every attribute it asks.

    A timetable has no state, and making one puts its cron expression into words.
    """
    return kind(end)


def _until(found: DagRunInfo | None, end: date) -> DagRunInfo | None:
    last = datetime.combine(end, time(), UTC)
    return found if found is not None and found.logical_date is not None and found.logical_date <= last else None
