"""One rank: ``python -m airflow_ml.training.ranks JOB.json``, started by `launch` with Horovod's environment.

A rank dies with its launcher, however that dies: the kernel sends it KILL.
"""

import contextlib
import ctypes
import errno
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.errors import AirflowMLError, TrainingFailed
from airflow_ml.storage import storage_error
from airflow_ml.training.events import EventWriter
from airflow_ml.training.pulse import Pulse

if TYPE_CHECKING:
    from torch import nn

    from airflow_ml.training.context import FitContext
    from airflow_ml.training.job import TrainingJob

PARENT = "AIRFLOW_ML_LAUNCHER_PID"
EVENTS = "AIRFLOW_ML_EVENTS_FD"
_PR_SET_PDEATHSIG = 1
_EXAMPLE_ROWS = 16
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What an operating system refuses for the disk's sake, whoever wrote: our files or the user's `fit`."""


STOP = "AIRFLOW_ML_STOP"
"""File that is there when the ranks are to stop after their next checkpoint."""
YIELDED = 75
"""Exit code of a rank that did."""


class Yielded(BaseException):
    """The ranks stop here, to go on from their checkpoint as others."""


def die_with_launcher() -> None:
    """Ask the kernel for KILL at the launcher's death; end now when it is dead already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(os.environ[PARENT]):
        os._exit(1)


def main(path: Path) -> None:
    """Train as one rank. An error is sent to the launcher as an event; the exit code says that there was one."""
    events = EventWriter(int(os.environ[EVENTS]), int(os.environ["HOROVOD_RANK"]))
    pulse = Pulse(events)
    pulse.start()
    code = 0
    try:
        _train(path, events, pulse)
    except Yielded:
        code = YIELDED
    except BaseException as raised:
        error = raised
        if isinstance(raised, OSError) and raised.errno in _DISK:
            error = storage_error(raised, Path(raised.filename or path.parent))
        told = isinstance(error, AirflowMLError)
        facts = error.to_dict() if isinstance(error, AirflowMLError) else {"error": type(error).__name__}
        events.send(
            "failed",
            **{"what": f"{type(error).__name__}: {error}", **facts},
            told=told,
            epoch=pulse.epoch,
            step=pulse.step,
        )
        # After the event: the log may lie on the very disk that is full.
        with contextlib.suppress(OSError):
            traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Not through atexit: after an error Horovod's shutdown waits for ranks that may be gone, and freeing torch takes a
    # second.
    os._exit(code)


def _train(path: Path, events: EventWriter, pulse: Pulse) -> None:
    import horovod.torch as hvd
    import torch

    from airflow_ml.training import loop
    from airflow_ml.training.context import FitContext
    from airflow_ml.training.job import TrainingJob

    job = TrainingJob.model_validate_json(path.read_text(encoding="utf-8"))
    # Its environment has said how many, when torch was imported.
    threads = job.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling memory that nobody reads is what that switch costs most.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    began = time.perf_counter()
    hvd.init()
    rendezvous_s = time.perf_counter() - began
    pulse.move()
    context = FitContext(job, events, pulse)
    if context.rank == 0:
        events.send(
            "started",
            workers=context.size,
            threads=threads,
            rendezvous_s=round(rendezvous_s, 3),
            train_rows=context.train.total,
            validation_rows=context.validation.total,
        )
    fit: Callable[[FitContext], nn.Module] = _load(job.fit) if job.fit else loop.fit
    network = fit(context)
    pulse.move()
    _same_everywhere(network)
    validation = context.validate(network)
    if context.rank == 0:
        pulse.busy = True
        _write(context, network, job, validation)
    hvd.shutdown()


def _load(entry_point: str) -> "Callable[[FitContext], nn.Module]":
    module, _, name = entry_point.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def _same_everywhere(network: "nn.Module") -> None:
    """Refuse ranks that have drifted apart: gradients that nobody averaged, or a network built from another seed."""
    import horovod.torch as hvd
    import torch

    sums = torch.stack(
        [torch.stack([w.double().sum(), w.double().abs().sum()]) for w in network.state_dict().values()]
    ).cpu()
    gathered = hvd.allgather(sums.flatten().unsqueeze(0), name="weights")
    if not torch.allclose(gathered, gathered[:1].expand_as(gathered), rtol=1e-4, atol=1e-4, equal_nan=True):
        raise TrainingFailed(
            "the ranks ended with different weights",
            where="the module that fit returned",
            remedy="build it after context.seed_everything(0), broadcast its parameters, and average gradients with "
            "hvd.DistributedOptimizer; airflow_ml.training.loop.train does all of it",
        )


def _write(context: "FitContext", network: "nn.Module", job: "TrainingJob", validation: dict[str, float]) -> None:
    from airflow_ml.training import model_files

    example = next(context.train.in_order(_EXAMPLE_ROWS))
    history = context.history
    best = next((entry["epoch"] for entry in reversed(history) if entry.get("best")), len(history))
    summary: dict[str, Any] = {
        "best_epoch": best,
        "epochs": len(history),
        "resumed_from_epoch": context.resumed_from,
        "train_rows": context.train.total,
        **validation,
    }
    model_files.write(
        Path(job.out),
        network,
        (example.categorical, example.numeric),
        Path(job.preprocessing),
        {**summary, "history": history},
    )
    context.events.send("finished", **summary)


if __name__ == "__main__":
    die_with_launcher()
    main(Path(sys.argv[1]))
