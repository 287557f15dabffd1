"""The entry point of a pod: ``python -m airflow_ml.stages.pod``.

One pod runs the request: pod 0, or the coordinator; the others lend it their ranks.

It answers into the request's folder in the base, as a local job does, and looks there, too, whether anybody still
waits for it: a job that nobody has waited for in the time of its lease ends, though nobody is there to end it.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from airflow_ml.lifecycle.protocol import FAILED, LEASE, LEFT, REQUEST, RESPONSE
from airflow_ml.stages.__main__ import leave
from airflow_ml.stages.__main__ import main as run_request
from airflow_ml.storage import write_atomically

_REQUEST = Path("/etc/airflow-ml/request") / REQUEST
_LOOK_S = 5.0


def main() -> int:
    """Do this pod's part; returns its exit code."""
    # The first process of a container ignores signals that it has no handler for.
    signal.signal(signal.SIGTERM, _go)
    folder = Path(os.environ["AIRFLOW_ML_FOLDER"])
    if not folder.is_dir():
        print(
            f"ERROR {folder} is not there: the pods need the platform's base, at this path. Remedy: mount it by the "
            "pod template of the platform's Kubernetes compute",
            flush=True,
        )
        return FAILED
    index = _index()
    if index is not None:
        from airflow_ml.training import agent

        return agent.main(os.environ["AIRFLOW_ML_COORDINATOR"], index)
    threading.Thread(target=_watch, args=(folder, float(os.environ["AIRFLOW_ML_LEASE_S"])), daemon=True).start()
    return run_request(_REQUEST, folder / RESPONSE)


def _index() -> int | None:
    """Which of those that lend their ranks this pod is; None for the one that runs the request."""
    told = os.environ.get("AIRFLOW_ML_INDEX")
    if told is not None:
        return None if told == "coordinator" else int(told)
    return int(os.environ["JOB_COMPLETION_INDEX"]) or None


def _go(*_: object) -> None:
    os._exit(LEFT)


def _watch(folder: Path, lease_s: float) -> None:
    """End the job when its lease is over. One that has just started is given a whole one."""
    began = time.time()
    while True:
        time.sleep(_LOOK_S)
        try:
            waited_for = max(began, (folder / LEASE).stat().st_mtime)
        except OSError:
            waited_for = began
        if time.time() - waited_for > lease_s:
            what = f"nobody has waited for this job for {lease_s:.0f} s"
            logging.getLogger("airflow_ml.stages").error("%s; it ends", what)
            error = {"error": "JobFailed", "what": what, "where": str(folder), "remedy": "run the task again"}
            write_atomically(folder / RESPONSE, json.dumps(error))
            os._exit(FAILED)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    leave(code)
