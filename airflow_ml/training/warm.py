"""A rank that has imported everything before it is needed: ``python -m airflow_ml.training.warm``.

It waits on standard input for one line, its environment and its job's file, and is that rank from then on. Imports take
seconds, and pods wait for each other anyway.
"""

import json
import os
import sys
from pathlib import Path

from airflow_ml.training import ranks
from airflow_ml.training.events import EventWriter


def main() -> None:
    """Import, wait, train."""
    import torch

    import airflow_ml.training.loop
    import airflow_ml.training.model_files  # noqa: F401

    # The first optimizer of a process imports torch's compiler: seconds, in which all pods would wait.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    EventWriter(int(os.environ[ranks.EVENTS]), -1).send("warm")
    line = sys.stdin.readline()
    if not line:
        return
    told = json.loads(line)
    os.environ.update(told["environment"])
    ranks.main(Path(told["job"]))


if __name__ == "__main__":
    ranks.die_with_launcher()
    main()
