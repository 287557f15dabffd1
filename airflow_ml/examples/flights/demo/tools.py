"""The demo's way to command line tools: those of its own environment."""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from airflow_ml.examples.flights.demo.rest import AirflowRest
from airflow_ml.lifecycle.errors import JobFailed
from airflow_ml.lifecycle.windows import Window


def command(environment: Mapping[str, str], name: str, *arguments: str) -> str:
    """Run a command line tool of this environment; returns what it printed.

    Raises:
        JobFailed: It ended with an error.
    """
    program = str(Path(sys.executable).with_name(name))
    done = subprocess.run(
        [program, *arguments],
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise JobFailed(f"{name} {arguments[0]}: {done.stderr.strip()[-500:]}", remedy="see the message")
    return done.stdout


def backfill(rest: AirflowRest, environment: Mapping[str, str], dag_id: str, nights: Window, *options: str) -> None:
    """`airflow backfill create`, after an earlier one has ended; again when SQLite was locked.

    The DAG is paused meanwhile. A command that finds SQLite locked half-way takes back the runs that it has made,
    and a scheduler that has begun with one of them dies of it (seen in Airflow 3.3.2). It may also leave a backfill
    without runs, which Airflow ends in its next sweep; repeating does no harm.
    """
    dates = ("--from-date", str(nights.start), "--to-date", str(nights.end))
    for last in (False, False, True):
        while any(found["completed_at"] is None for found in rest.backfills(dag_id)):
            time.sleep(2)
        rest.pause(dag_id)
        try:
            command(environment, "airflow", "backfill", "create", "--dag-id", dag_id, *dates, *options)
            return
        except JobFailed:
            if last:
                raise
        finally:
            rest.unpause(dag_id)
