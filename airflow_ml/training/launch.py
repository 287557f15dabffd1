"""The launcher: N Horovod ranks on this machine over Gloo, which live and die together.

It does what ``horovodrun`` does for one host (Horovod's own rendezvous server, slots and environment), but holds the
processes itself: their ranks are real children with process groups of their own, so the death of a rank ends the
others at once, the death of the launcher ends them all, and nothing is left behind. Everything listens on the
loopback interface only.

Source: https://github.com/horovod/horovod/blob/v0.28.1/horovod/runner/gloo_run.py (`launch_gloo`)
"""

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from airflow_ml.lifecycle.errors import TrainingFailed
from airflow_ml.training.events import Event, OnEvent
from airflow_ml.training.failures import LOG_LINES, SETTLE_S, Outcome, failure, hang
from airflow_ml.training.job import TrainingJob
from airflow_ml.training.pulse import ALIVE
from airflow_ml.training.ranks import EVENTS, PARENT
from airflow_ml.training.usage import EVERY_S, Meter
from airflow_ml.training.watchdog import Watchdog

log = logging.getLogger("airflow_ml.training")

_POLL_S = 0.2
_LOOPBACK = "127.0.0.1"


def launch(job: TrainingJob, work: Path, on_event: OnEvent) -> Event:
    """Train, and wait for the end.

    Args:
        job: What is to be trained.
        work: Folder for the job's file and one log a rank, ``rank-<n>.log``; created.
        on_event: Called in this thread for each event of the ranks.

    Returns:
        The ``finished`` event: best_epoch, epochs, resumed_from_epoch, train_rows, validation_loss, validation_roc_auc.

    Raises:
        AirflowMLError: A rank failed; `TrainingFailed` with its last log lines, or the rank's own error of another
            kind. The others have been ended.
    """
    work.mkdir(parents=True, exist_ok=True)
    path = work / "job.json"
    path.write_text(job.model_dump_json(indent=1), encoding="utf-8")
    reading, writing = os.pipe()
    ranks: list[_Rank] = []
    meter = Meter()
    meter.begin("ranks", time.monotonic(), job.workers * job.threads, job.workers if job.gpus_per_worker else 0)
    try:
        with rendezvous(f"localhost:{job.workers}", job.workers, _LOOPBACK) as (port, slots):
            for slot in slots:
                ranks.append(
                    _Rank(int(slot.rank), work, path, {**_environment(job, port), **slot_environment(slot)}, writing)
                )
            os.close(writing)
            writing = -1
            return _watch(ranks, reading, on_event, Watchdog(len(ranks), job.step_timeout_s, time.monotonic()), meter)
    finally:
        # Whatever happened, Ctrl-C included: no rank outlives this call.
        for rank in ranks:
            rank.end()
        os.close(reading)
        if writing >= 0:
            os.close(writing)
        on_event(meter.event(time.monotonic()))


def threads_of(workers: int) -> int:
    """Computing threads of a rank: the cores that this process may use, shared out."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


class _Rank:
    """One process and its log."""

    def __init__(self, number: int, work: Path, job: Path, environment: dict[str, str], events: int) -> None:
        self.number = number
        self.log = work / f"rank-{number}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "airflow_ml.training.ranks", str(job)],
                env={**environment, EVENTS: str(events), PARENT: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(events,),
                # A group of its own, so that what a rank starts (data loaders) ends with it.
                process_group=0,
            )

    def end(self) -> None:
        """Kill the rank's process group, and reap the rank."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tail(self) -> str:
        """Last lines of the log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])

    def outcome(self) -> Outcome:
        """How it is, for the error."""
        return Outcome(self.number, self.process.returncode, self.tail(), str(self.log))


def _watch(ranks: list[_Rank], reading: int, on_event: OnEvent, watchdog: Watchdog, meter: Meter) -> Event:
    """Pass events on until every rank has ended well, or one has not, or hangs."""
    finished: Event | None = None
    failures: list[Event] = []
    deadline: float | None = None
    lines = _Lines(reading)
    told = time.monotonic()
    while True:
        if time.monotonic() - told > EVERY_S:
            told = time.monotonic()
            on_event(meter.event(told))
        running = [rank for rank in ranks if rank.process.poll() is None]
        # Read after looking: what a rank wrote before it ended is in the pipe by now.
        for event in lines.read(_POLL_S if running else 0.0):
            if event["event"] == ALIVE:
                watchdog.hear(event, time.monotonic())
                continue
            if event["event"] == "failed":
                failures.append(event)
            elif event["event"] == "finished":
                finished = event
            on_event(event)
        failed = [rank for rank in ranks if rank.process.returncode not in (None, 0)]
        if (failed or failures) and deadline is None:
            deadline = time.monotonic() + SETTLE_S
        if deadline is not None and (not running or time.monotonic() > deadline):
            raise failure([rank.outcome() for rank in ranks], failures)
        hung = watchdog.hung([rank.number for rank in running], time.monotonic()) if deadline is None else None
        if hung is not None:
            raise hang(hung, [rank.outcome() for rank in ranks])
        if not running and deadline is None:
            if finished is None:
                raise TrainingFailed("the ranks ended without a model", where=str(ranks[0].log), remedy="read the log")
            return finished


class _Lines:
    """Complete JSON lines out of a pipe."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._rest = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(descriptor, selectors.EVENT_READ)
        self._open = True

    def read(self, wait_s: float) -> list[Event]:
        """Events that arrive within ``wait_s`` (returns at the first ones)."""
        if not self._open:
            time.sleep(wait_s)
            return []
        self._selector.select(wait_s)
        with contextlib.suppress(BlockingIOError):
            while True:
                chunk = os.read(self._descriptor, 1 << 16)
                if not chunk:
                    self._open = False
                    break
                self._rest += chunk
        *complete, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in complete if line]


@contextlib.contextmanager
def rendezvous(
    hosts: str, ranks: int, interface: str, known: Callable[[str], bool] = lambda address: True
) -> Iterator[tuple[int, list[Any]]]:
    """Horovod's rendezvous server on a free port, and the slots of its ranks.

    Its ranks cannot prove who they are: whoever may read and write what they tell each other is known by his address.

    Args:
        hosts: ``name:ranks`` of each host, separated by commas; Horovod uses the names as keys only.
        ranks: Of all hosts.
        interface: Address that the server listens at.
        known: Whether somebody at an address is heard.
    """
    try:
        from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
        from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer
    except ImportError as error:
        raise TrainingFailed(
            "Horovod is not installed", where=sys.executable, remedy="run: python -m airflow_ml.training.horovod_wheel"
        ) from error

    class Server(RendezvousHTTPServer):  # type: ignore[misc]
        def verify_request(self, request: Any, client_address: tuple[str, int]) -> bool:
            if known(client_address[0]):
                return True
            log.warning("refused a connection to the rendezvous from %s", client_address[0])
            return False

    slots = get_host_assignments(parse_hosts(hosts), ranks)
    server = Server((interface, 0), RendezvousHandler, 0)
    server.daemon_threads = True
    server.init(slots)
    # Looks every so many seconds whether it should stop: what a training waits for at its end.
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="horovod-rendezvous", daemon=True)
    thread.start()
    try:
        yield server.server_address[1], slots
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _environment(job: TrainingJob, port: int) -> dict[str, str]:
    environment = {
        **os.environ,
        # What this process can import, its ranks can: the user's `fit` may lie on a path that was added at run time.
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "PYTHONUNBUFFERED": "1",
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": _LOOPBACK,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_GLOO_IFACE": "lo",
        # Ranks import at their own pace on a busy machine; a dead one is noticed here, not by a timeout.
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "600",
        "OMP_NUM_THREADS": str(job.threads),
        "MKL_NUM_THREADS": str(job.threads),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        **job.tuning,
    }
    if not job.gpus_per_worker:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


def slot_environment(slot: Any) -> dict[str, str]:
    """What Horovod reads of a rank's place."""
    return {
        "HOROVOD_HOSTNAME": str(slot.hostname),
        "HOROVOD_RANK": str(slot.rank),
        "HOROVOD_SIZE": str(slot.size),
        "HOROVOD_LOCAL_RANK": str(slot.local_rank),
        "HOROVOD_LOCAL_SIZE": str(slot.local_size),
        "HOROVOD_CROSS_RANK": str(slot.cross_rank),
        "HOROVOD_CROSS_SIZE": str(slot.cross_size),
    }
