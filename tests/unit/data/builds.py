"""Builds of features that break their contract, each in its own way, and labels that nothing can be learnt from."""

import os
import signal

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from airflow_ml.stages.features import FeatureInputs


def sound(inputs: FeatureInputs) -> DataFrame:
    """One number a flight."""
    return inputs.raw.select("flight_id", "scheduled_departure", "ds", "carrier", F.col("distance").alias("miles"))


def without_a_column(inputs: FeatureInputs) -> DataFrame:
    return sound(inputs).drop("miles")


def with_an_entity_twice(inputs: FeatureInputs) -> DataFrame:
    return sound(inputs).unionByName(sound(inputs).limit(3))


def without_a_time(inputs: FeatureInputs) -> DataFrame:
    never = F.lit(None).cast("timestamp_ntz")
    return sound(inputs).withColumn(
        "scheduled_departure", F.when(F.col("carrier") != "UA", F.col("scheduled_departure")).otherwise(never)
    )


def of_another_day(inputs: FeatureInputs) -> DataFrame:
    return sound(inputs).withColumn("ds", F.date_add("ds", 1))


def of_another_year(inputs: FeatureInputs) -> DataFrame:
    return sound(inputs).withColumn("scheduled_departure", F.expr("scheduled_departure + interval 1 year"))


def without_a_clock(inputs: FeatureInputs) -> DataFrame:
    return sound(inputs).withColumn("scheduled_departure", F.lit("at noon"))


def with_a_label(inputs: FeatureInputs) -> DataFrame:
    return sound(inputs).withColumn("label", F.lit(True))


def without_a_row(inputs: FeatureInputs) -> DataFrame:
    return sound(inputs).where("false")


def that_fails_in_python(inputs: FeatureInputs) -> DataFrame:
    return inputs.nothing


def that_fails_in_java(inputs: FeatureInputs) -> DataFrame:
    inputs.spark._jvm.java.lang.Integer.parseInt("many")
    return sound(inputs)


def that_fails_in_a_task(inputs: FeatureInputs) -> DataFrame:
    return sound(inputs).where(F.length(F.regexp_replace("carrier", F.concat(F.lit("("), F.col("carrier")), "")) >= 0)


def that_kills_spark(inputs: FeatureInputs) -> DataFrame:
    os.kill(inputs.spark._jvm.java.lang.ProcessHandle.current().pid(), signal.SIGKILL)
    return sound(inputs)


def never(outcomes: pa.Table) -> pa.Array:
    """No flight is late."""
    return pa.array([False] * len(outcomes))


def unknown(outcomes: pa.Table) -> pa.Array:
    """No flight has a label."""
    return pa.nulls(len(outcomes), pa.bool_())
