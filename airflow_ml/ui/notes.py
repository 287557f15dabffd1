"""Notes of DAG runs: a stage's verdict, with its reasons, where people look at runs.

A task has no way to set the note of its run: the execution API takes one only for a run that it triggers. So the task
leaves an XCom, and the scheduler, which tells listeners in its own transaction that a run has ended, writes the note.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from sqlalchemy.orm import Session

KEY = "airflow_ml_note"
"""XCom key; as `operators.results.NOTE`."""

MARK = "airflow-ml: "

LONGEST = 1000
"""Characters that Airflow's column holds."""


@hookimpl
def on_dag_run_success(dag_run: "DagRun", msg: str) -> None:
    """Write the note."""
    _write(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: "DagRun", msg: str) -> None:
    """Write the note: a verdict stands, also when something after it failed."""
    _write(dag_run)


def _write(dag_run: "DagRun") -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is not None:
        # The scheduler's own transaction, which it commits.
        _write_in(session, dag_run)
        return
    # `airflow dags test` hands over a run that belongs to no session.
    with create_session() as own:
        found = own.get(DagRun, dag_run.id)
        if found is not None:
            _write_in(own, found)


def _write_in(session: "Session", dag_run: "DagRun") -> None:
    from airflow.models.xcom import XComModel
    from sqlalchemy import select

    with session.no_autoflush:
        query = (
            select(XComModel)
            .where(XComModel.dag_id == dag_run.dag_id, XComModel.run_id == dag_run.run_id, XComModel.key == KEY)
            .order_by(XComModel.timestamp)
        )
        texts = [str(XComModel.deserialize_value(row)) for row in session.scalars(query)]
        if texts:
            dag_run.note = with_verdicts(dag_run.note or "", texts)


def with_verdicts(note: str, verdicts: Sequence[str]) -> str:
    """A note with our part at its end.

    What a person or a trigger wrote stands before it and is kept; what we wrote for an earlier try of the run is
    replaced.
    """
    theirs = note.partition(MARK)[0].rstrip()
    ours = MARK + "\n\n".join(dict.fromkeys(verdicts))
    whole = f"{theirs}\n\n{ours}" if theirs else ours
    return whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 1]}…"
