"""The job process: ``python -m airflow_ml.stages REQUEST.json RESPONSE.json``.

The response is a `JobResult`, or the error as data; it is written last and atomically. Log lines go to standard output,
where the compute that started this process picks them up.
"""

import atexit
import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.stages.runner import execute
from airflow_ml.stages.workspace import write_atomically


def main(request_path: Path, response_path: Path) -> int:
    """Run one request; returns the exit code: 0 done, 1 failed with an error in the response."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
    for noisy in ("alembic", "mlflow.store", "py4j", "matplotlib", "absl", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        try:
            request = JobRequest.model_validate_json(request_path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise SpecError(
                str(error), where=str(request_path), remedy="is the sender's airflow-ml as new as this one?"
            ) from error
        write_atomically(response_path, execute(request).model_dump_json())
    except AirflowMLError as error:
        write_atomically(response_path, json.dumps(error.to_dict()))
        logging.getLogger("airflow_ml.stages").error("%s: %s", type(error).__name__, error)
        return 1
    except Exception as error:  # the sender gets every error, not only ours
        traceback.print_exc(file=sys.stdout)
        data = {
            "error": "JobFailed",
            "what": f"{type(error).__name__}: {error}",
            "where": "",
            "remedy": "see the log above",
        }
        write_atomically(response_path, json.dumps(data))
        return 1
    return 0


def leave(code: int) -> NoReturn:
    """End this process without tearing down what it imported: freeing torch and TensorFlow takes seconds.

    Whatever was registered to be done at the exit is done.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main(Path(sys.argv[1]), Path(sys.argv[2])))
