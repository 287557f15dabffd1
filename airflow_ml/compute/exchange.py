"""The folder of one request: ``<base>/runs/<model>/requests/<id>/{request,response}.json``."""

import json
import uuid
from pathlib import Path

from airflow_ml.lifecycle.errors import AirflowMLError
from airflow_ml.lifecycle.requests import JobRequest, JobResult
from airflow_ml.storage import write_atomically

REQUEST = "request.json"
RESPONSE = "response.json"


def requests_folder(base: str | Path, model: str) -> Path:
    """Folder of all requests of a model."""
    return Path(base) / "runs" / model / "requests"


def write_request(request: JobRequest) -> Path:
    """Write a request into a new folder; returns the folder, whose name is the request's id.

    Raises:
        BaseError: The base is not writable.
    """
    folder = requests_folder(request.platform.base, request.model.name) / uuid.uuid4().hex
    write_atomically(folder / REQUEST, request.model_dump_json(indent=2))
    return folder


def read_response(folder: str | Path) -> JobResult | AirflowMLError | None:
    """What the job wrote: its result, its error as data, or None."""
    try:
        text = (Path(folder) / RESPONSE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    data = json.loads(text)
    if "error" in data:
        return AirflowMLError.from_dict(data)
    return JobResult.model_validate(data)
