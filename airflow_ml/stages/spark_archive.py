"""Makes Java's archive of the classes that Spark loads: with it, a session costs half the processor time to start.

``python -m airflow_ml.stages.spark_archive``, once for each environment; ``make setup`` does it. It belongs to one Java
and one Spark, and a Java that it does not fit passes it over.

Source: https://docs.oracle.com/en/java/javase/17/docs/specs/man/java.html (Application Class Data Sharing)
"""

import os
import sys
import tempfile
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

from airflow_ml.stages import spark

_WRITING_S = 120.0


def main() -> int:
    """Make the archive; 1 where this Java makes none, which harms nobody."""
    archive = spark.class_archive()
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        made = Path(folder) / archive.name
        try:
            _run(made, Path(folder))
        except TimeoutExpired:
            made.unlink(missing_ok=True)
        if not made.exists():
            print("this Java writes no archive of classes; Spark starts without it", file=sys.stderr)
            return 1
        os.replace(made, archive)
    print(f"{archive}: {archive.stat().st_size / 2**20:.0f} MiB")
    return 0


def _run(archive: Path, folder: Path) -> None:
    """A session that does, in small, what building features does, and writes down what was loaded for it."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    with spark.spark_session("classes", f"-XX:ArchiveClassesAtExit={archive}") as session:
        rows = session.range(1000).select(
            F.col("id"),
            (F.col("id") % 7).cast("string").alias("key"),
            (F.col("id") / 10).alias("value"),
            F.timestamp_seconds(F.col("id") * 600).alias("at"),
        )
        rows.write.partitionBy("key").parquet(str(folder / "rows"))
        read = session.read.parquet(str(folder / "rows"))
        window = Window.partitionBy("key").orderBy("at").rowsBetween(-5, -1)
        means = read.groupBy("key").agg(F.avg("value").alias("mean"), F.count("*").alias("count"))
        joined = read.withColumn("before", F.avg("value").over(window)).join(means, "key", "left")
        joined.filter(F.hour("at") >= 0).write.parquet(str(folder / "joined"))
        gateway: Any = session.sparkContext._gateway
    # Java leaves when nobody holds its input any more, and writes the archive on its way.
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(_WRITING_S)


if __name__ == "__main__":
    sys.exit(main())
