"""The built-in ``fit``, which notes when it does what, for `tests.bench.pods`. Ranks import it: it imports little."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from airflow_ml.training import loop
from airflow_ml.training.context import FitContext
from airflow_ml.training.ranks import PARENT

FOLDER = "moments"
"""Beside the checkpoints: a file a rank, of moments in seconds since the epoch."""


def fit(context: FitContext) -> nn.Module:
    """Train, and note when this rank's machine or pod began, was told to begin, and made its first and last step."""
    noted = {"began": _began(_first_process()), "told": _job_file().stat().st_mtime, "fit": time.time()}
    batches = context.batches

    def timed(*args: Any) -> Iterator[Any]:
        for batch in batches(*args):
            noted.setdefault("first_step", time.time())
            yield batch
            # The loop asks for more: the step is done.
            noted["last_step"] = time.time()

    context.batches = timed  # type: ignore[method-assign]
    network = loop.fit(context)
    folder = Path(context.checkpoints.place).parent / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / f"rank-{context.rank}.json").write_text(json.dumps(noted))
    return network


def _first_process() -> int:
    """The pod's, or the stage's where the ranks are its children."""
    return 1 if "AIRFLOW_ML_POD_IP" in os.environ else int(os.environ[PARENT])


def _began(process: int) -> float:
    """When a process was started, to 10 ms; psutil says it to a second, because the kernel's boot time is whole."""
    started = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    up_s = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - (up_s - started / os.sysconf("SC_CLK_TCK"))


def _job_file() -> Path:
    """What a launcher writes when it starts its ranks, and an agent when the coordinator has all pods and says so."""
    if len(sys.argv) > 1:
        return Path(sys.argv[1])
    return max(Path(tempfile.gettempdir()).glob("airflow-ml-*/job.json"), key=lambda path: path.stat().st_mtime)
