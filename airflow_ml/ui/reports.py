"""Reports in the API server, ``/airflow-ml/reports/<dag>/<model>/<request>/<report>``, and pages of versions.

A report is HTML that holds values of users' data, served from the address of Airflow's UI. So each is shown only to who
may read the DAG, only if a result or a refusal that this DAG asked for names it, only from below the base, and in a
sandbox: the browser gives it an origin of its own, where no script reaches the session.

The page of a version, ``/airflow-ml/releases/<dag>/<model>/<version>``, and the reports that it was registered with,
below it, are shown to who may read a DAG with the tag ``model:<name>``: those of `model_dags` have it, and a DAG of
one's own may declare it.

The base is that of ``[airflow_ml]``: a DAG whose code or connection names a platform of its own is not run here, so
its reports are opened as files.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, HTMLResponse

from airflow_ml.compute.exchange import read_response, requests_folder
from airflow_ml.hooks.platform import PlatformHook
from airflow_ml.lifecycle.errors import AirflowMLError, NotReleasable
from airflow_ml.lifecycle.protocol import REQUEST
from airflow_ml.lifecycle.requests import FileOutput

if TYPE_CHECKING:
    from airflow_ml.hooks.releases import ReleaseRecord

SANDBOX = {
    "Content-Security-Policy": "sandbox allow-scripts allow-popups",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
}

_MODEL = r"^[a-z][a-z0-9_]{0,62}$"
_REQUEST = r"^[0-9a-f]{32}$"

app = FastAPI(title="airflow-ml reports", docs_url=None, redoc_url=None, openapi_url=None)


@app.get("/reports/{dag_id}/{model}/{request}/{report}", dependencies=[Depends(requires_access_dag("GET"))])
def report(
    dag_id: str,
    model: Annotated[str, PathParameter(pattern=_MODEL)],
    request: Annotated[str, PathParameter(pattern=_REQUEST)],
    report: str,
) -> FileResponse:
    """One report of one answer that a task of this DAG received."""
    try:
        base = Path(PlatformHook().platform.base)
        found = find_report(base, dag_id, model, request, report)
    except AirflowMLError as error:
        raise HTTPException(500, str(error)) from error
    if found is None:
        raise HTTPException(404, "no such report")
    path, media_type = found
    return FileResponse(path, media_type=media_type, headers=SANDBOX)


@app.get("/releases/{dag_id}/{model}/{version}", dependencies=[Depends(requires_access_dag("GET"))])
def release(
    dag_id: str,
    model: Annotated[str, PathParameter(pattern=_MODEL)],
    version: Annotated[int, PathParameter(ge=1)],
) -> HTMLResponse:
    """What is known of a version."""
    from airflow_ml.ui.records import release_page

    with _told():
        page = release_page(_record(dag_id, model), version)
    return HTMLResponse(page, headers=SANDBOX)


@app.get("/releases/{dag_id}/{model}/{version}/{report}", dependencies=[Depends(requires_access_dag("GET"))])
def release_report(
    dag_id: str,
    model: Annotated[str, PathParameter(pattern=_MODEL)],
    version: Annotated[int, PathParameter(ge=1)],
    report: str,
) -> FileResponse:
    """A report that a version was registered with."""
    with _told():
        record = _record(dag_id, model)
        named = record.release(version).reports.get(report)
    found = None if named is None else _below(Path(record.platform.base), named)
    if found is None:
        raise HTTPException(404, "no such report")
    path, media_type = found
    return FileResponse(path, media_type=media_type, headers=SANDBOX)


def _record(dag_id: str, model: str) -> "ReleaseRecord":
    """The record of a model, for readers of a DAG that is the model's."""
    from airflow_ml.hooks.releases import ReleaseRecord

    if not is_of(dag_id, model):
        raise HTTPException(404, f"DAG {dag_id} has no tag model:{model}")
    return ReleaseRecord(PlatformHook().platform, model)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except NotReleasable as error:
        raise HTTPException(404, str(error)) from error
    except AirflowMLError as error:
        raise HTTPException(500, str(error)) from error


def is_of(dag_id: str, model: str) -> bool:
    """Whether a DAG says that it is a model's."""
    from airflow.models.dag import DagTag
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        tag = select(DagTag.name).where(DagTag.dag_id == dag_id, DagTag.name == f"model:{model}")
        return session.scalar(tag) is not None


def find_report(base: Path, dag_id: str, model: str, request: str, report: str) -> tuple[Path, str] | None:
    """The file and media type of a report, or None for everything that must not be served.

    Args:
        base: Base folder.
        dag_id: DAG that the reader may read.
        model: Model's name.
        request: Id of the request.
        report: Name in the `reports` of the result, or of the error that was answered instead.
    """
    if not re.match(_MODEL, model) or not re.match(_REQUEST, request):
        return None
    folder = requests_folder(base, model) / request
    try:
        sender = json.loads((folder / REQUEST).read_text(encoding="utf-8"))["coordinates"]["dag_id"]
        answer = read_response(folder)
        if sender != dag_id or answer is None or report not in answer.reports:
            return None
        # Validation errors are ValueErrors: what an error names was never checked.
        named = FileOutput.model_validate(answer.reports[report])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _below(base, named)


def _below(base: Path, named: FileOutput) -> tuple[Path, str] | None:
    path = Path(named.uri).resolve()
    if not path.is_relative_to(base.resolve()) or not path.is_file():
        return None
    return path, named.media_type


__all__ = ["app", "find_report"]
