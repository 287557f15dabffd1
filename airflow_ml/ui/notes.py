"""Notes of DAG runs: a stage's verdict, with its reasons, where people look at runs.

A task has no way to set the note of its run: the execution API takes one only for a run that it triggers. So the task leaves
an XCom, and the scheduler, which tells listeners in its own transaction that a run has ended, writes the note.
"""

import logging
from typing import TYPE_CHECKING

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

KEY = "airflow_ml_note"

log = logging.getLogger(__name__)


@hookimpl
def on_dag_run_success(dag_run: "DagRun", msg: str) -> None:
    """Write the note."""
    _write(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: "DagRun", msg: str) -> None:
    """Write the note: a verdict stands, also when something after it failed."""
    _write(dag_run)


def _write(dag_run: "DagRun") -> None:
    from airflow.models.xcom import XComModel
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        return
    with session.no_autoflush:
        query = (
            select(XComModel)
            .where(XComModel.dag_id == dag_run.dag_id, XComModel.run_id == dag_run.run_id, XComModel.key == KEY)
            .order_by(XComModel.timestamp)
        )
        texts = [str(XComModel.deserialize_value(row)) for row in session.scalars(query)]
        # What a person wrote is kept; what we wrote for an earlier try of this run is replaced.
        ours = not dag_run.note or dag_run.note.startswith(_MARK)
        if texts and ours:
            dag_run.note = _MARK + "\n\n".join(dict.fromkeys(texts))


_MARK = "airflow-ml: "
