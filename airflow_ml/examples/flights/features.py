"""The user's own code of the flights model: features by Spark, and the label.

What a row of day ``ds`` may know: its own partition (all schedules and forecasts of the day), and outcomes of
``[ds - lag - history + 1, ds - lag]``. One job builds half a year exactly as half a year of nights would: each day
looks back through its own window, and sums are of whole numbers, so that no order of rows can change a digit.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

    from airflow_ml.stages.features import FeatureInputs

LATE_MINUTES = 15
PRIOR_FLIGHTS = 25
"""A late rate is drawn towards the overall one as if by this many flights: small groups say little."""

SIMILAR = {
    "carrier": ("carrier",),
    "dest": ("dest",),
    "origin_hour": ("origin", "hour"),
    "carrier_dest": ("carrier", "dest"),
    "flight": ("carrier", "flight"),
    "aircraft": ("tailnum",),
}
"""Late rates of flights that share these columns."""

SPANS = ("month", "week", "newest")
"""How far a late rate looks back: all of the history, seven days, the newest day that is known."""


def late(outcomes: "pa.Table") -> "pa.Array":
    """Whether a flight arrived 15 minutes late or more.

    Null for a cancelled flight, which never arrived, and for a diverted one: it departed and has no delay at the
    destination that was asked about.
    """
    import pyarrow.compute as pc

    return pc.greater_equal(outcomes["arr_delay"], LATE_MINUTES)


def build(inputs: "FeatureInputs") -> "DataFrame":
    """One row a flight: keys, model inputs, ``ds``."""
    from pyspark.sql import functions as F

    # Read once; all that follows starts from it.
    scheduled = _with_time(inputs.raw).persist()
    flights = _with_history(_with_weather(_with_traffic(scheduled)), scheduled, inputs)
    return flights.select(
        "flight_id",
        "scheduled_departure",
        "ds",
        "carrier",
        "origin",
        "dest",
        "hour",
        "weekday",
        "plane_manufacturer",
        "distance",
        "scheduled_minutes",
        (F.year("ds") - F.col("plane_year")).alias("aircraft_age"),
        F.col("plane_seats").alias("aircraft_seats"),
        "congestion",
        "departures_before",
        "aircraft_leg",
        "temp",
        "dewp",
        "humid",
        "wind_speed",
        # No gust is reported when the wind is steady.
        F.coalesce("wind_gust", "wind_speed").alias("wind_gust"),
        (F.cos(F.radians("wind_dir")) * F.col("wind_speed")).alias("wind_north"),
        (F.sin(F.radians("wind_dir")) * F.col("wind_speed")).alias("wind_east"),
        "precip",
        "precip_before",
        "precip_day",
        "pressure",
        "visib",
        "visib_lowest_before",
        "visib_lowest_day",
        *(name for name in flights.columns if name.startswith("late_rate_")),
    )


def _with_time(flights: "DataFrame") -> "DataFrame":
    from pyspark.sql import functions as F

    return flights.withColumns(
        {
            "hour": F.date_format("scheduled_departure", "HH"),
            "weekday": F.date_format("scheduled_departure", "EEE"),
        }
    )


def _with_traffic(flights: "DataFrame") -> "DataFrame":
    """Departures of the same airport in the hour and before it, and how often the aircraft has left New York today."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    by_hour = flights.groupBy("ds", "origin", "hour").agg(F.count("*").alias("congestion"))
    before = Window.partitionBy("ds", "origin").orderBy("hour").rowsBetween(Window.unboundedPreceding, -1)
    by_hour = by_hour.withColumn("departures_before", F.coalesce(F.sum("congestion").over(before), F.lit(0)))
    legs = Window.partitionBy("ds", "tailnum").orderBy("scheduled_departure", "flight_id")
    # Flights without an aircraft are not the legs of one.
    leg = F.when(F.col("tailnum").isNotNull(), F.row_number().over(legs))
    return flights.withColumn("aircraft_leg", leg).join(F.broadcast(by_hour), ["ds", "origin", "hour"])


def _with_weather(flights: "DataFrame") -> "DataFrame":
    """The day's weather at the airport so far and altogether: delays of a morning storm last until the evening."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    # Flights of one hour share its weather. Rain in hundredths of an inch: whole numbers sum the same in any order.
    hours = flights.groupBy("ds", "origin", "hour").agg(
        F.round(F.max("precip") * 100).cast("long").alias("rain"), F.min("visib").alias("low")
    )
    day = Window.partitionBy("ds", "origin")
    so_far = day.orderBy("hour").rowsBetween(Window.unboundedPreceding, Window.currentRow)
    hours = hours.select(
        "ds",
        "origin",
        "hour",
        (F.sum("rain").over(so_far) / 100).alias("precip_before"),
        (F.sum("rain").over(day) / 100).alias("precip_day"),
        F.min("low").over(so_far).alias("visib_lowest_before"),
        F.min("low").over(day).alias("visib_lowest_day"),
    )
    return flights.join(F.broadcast(hours), ["ds", "origin", "hour"])


def _with_history(flights: "DataFrame", scheduled: "DataFrame", inputs: "FeatureInputs") -> "DataFrame":
    """Late rates of what is alike, from outcomes that were known at 00:00 of each day."""
    from pyspark.sql import functions as F

    known = _in_groups(
        _with_time(inputs.outcomes.where("label is not null")), F.col("label").cast("long").alias("late")
    )
    asking = _in_groups(scheduled, F.col("flight_id"))
    found = asking.join(_trailing(known, asking, inputs.lag, inputs.history_days), ["ds", "kind", "group"])
    # One row a flight again, with a column for each kind of group.
    counts = found.groupBy("ds", "flight_id").agg(
        *(
            F.max(F.when(F.col("kind") == kind, F.col(count))).alias(f"{count}_{kind}")
            for kind, spans in ({"all": SPANS, "origin": ("newest",)} | dict.fromkeys(SIMILAR, ("month",))).items()
            for span in spans
            for count in (f"{span}_late", f"{span}_known")
        )
    )
    overall = F.try_divide("month_late_all", "month_known_all")
    rates = {
        "late_rate_all": overall,
        "late_rate_week": F.try_divide("week_late_all", "week_known_all"),
        "late_rate_newest": F.try_divide("newest_late_all", "newest_known_all"),
        "late_rate_newest_origin": F.try_divide("newest_late_origin", "newest_known_origin"),
    }
    for kind in SIMILAR:
        late = F.coalesce(f"month_late_{kind}", F.lit(0)) + PRIOR_FLIGHTS * overall
        rates[f"late_rate_{kind}"] = late / (F.coalesce(f"month_known_{kind}", F.lit(0)) + PRIOR_FLIGHTS)
    return flights.join(counts, ["ds", "flight_id"]).withColumns(rates)


def _in_groups(flights: "DataFrame", value: "Column") -> "DataFrame":
    """A row for each group that a flight belongs to: ``ds``, ``kind``, ``group`` and the value."""
    from pyspark.sql import functions as F

    groups = {"all": (), "origin": ("origin",)} | SIMILAR
    # Null where a part is null: flights without an aircraft are not alike.
    named = [
        F.struct(
            F.lit(kind).alias("kind"), F.concat(F.lit(""), *(F.concat(key, F.lit("|")) for key in keys)).alias("group")
        )
        for kind, keys in groups.items()
    ]
    return flights.select("ds", value, F.inline(F.array(*named))).where("group is not null")


def _trailing(known: "DataFrame", asking: "DataFrame", lag: int, history_days: int) -> "DataFrame":
    """Late and known flights of each group that asks on a day: ``<span>_late`` and ``<span>_known``.

    Daily counts and the days that ask are put into one line of days for each group, along which the spans slide: the
    work grows with the days, not with days times history, and groups of all kinds share one shuffle.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    counted = known.groupBy("ds", "kind", "group").agg(F.sum("late").alias("late"), F.count("*").alias("known"))
    none = F.lit(0).cast("long")
    asked = (
        asking.select("ds", "kind", "group").distinct().withColumns({"late": none, "known": none, "asks": F.lit(True)})
    )
    line = Window.partitionBy("kind", "group").orderBy(F.unix_date("ds"))
    oldest = lag + history_days - 1
    sums = {}
    for span, first in zip(SPANS, (oldest, min(lag + 6, oldest), lag), strict=True):
        past = line.rangeBetween(-first, -lag)
        sums[f"{span}_late"] = F.sum("late").over(past)
        sums[f"{span}_known"] = F.sum("known").over(past)
    both = counted.withColumn("asks", F.lit(False)).unionByName(asked)
    return both.withColumns(sums).where("asks").select("ds", "kind", "group", *sums)
