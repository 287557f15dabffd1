"""Whether events belong to the partition that they came in.

Everything that is point-in-time counts in partitions: features of ``ds`` know the outcomes of ``ds - lag`` because the
events of ``ds`` happen on ``ds``. Event times are the source's own clock, and ``ds`` may be the day of another one
(UTC, the head office): clocks differ by 14 hours at most. An event within that of its day is told; one beyond it is of
another day whatever the clock, and is refused.
"""

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING

from airflow_ml.spec import Model

if TYPE_CHECKING:
    import pyarrow as pa

ZONES = timedelta(hours=14)
"""The farthest that a clock is from UTC.

Source: https://www.iana.org/time-zones (Pacific/Kiritimati)
"""

REMEDY = (
    "correct the time at its source, or have the row delivered in the file of its own day; if the file's name is "
    "that of the delivery, put the day of the events into it"
)


def delivered_event_time(model: Model) -> str | None:
    """The column of the event's time, where the source delivers it; None where the build makes it."""
    name, schema = model.features.event_time, model.source.schema_
    return name if name in schema.names and schema.column(name).type == "timestamp" else None


def span(day: date, slack: timedelta = timedelta()) -> tuple[datetime, datetime]:
    """First moment of a day, and the first one after it, each moved outwards by ``slack``."""
    midnight = datetime.combine(day, time())
    return midnight - slack, midnight + timedelta(days=1) + slack


def strangers(times: "pa.Array | pa.ChunkedArray", day: date) -> Iterator[tuple[int, datetime]]:
    """Row and time of events that are of another day whatever the clock; nulls are not looked at.

    Args:
        times: Timestamps without a zone.
        day: Partition.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    first, after = (pa.scalar(bound, times.type) for bound in span(day, ZONES))
    outside = pc.fill_null(pc.or_(pc.less(times, first), pc.greater_equal(times, after)), False)
    if not pc.any(outside, min_count=0).as_py():
        return
    for row in pc.indices_nonzero(outside).to_pylist():
        yield row, times[row].as_py()
