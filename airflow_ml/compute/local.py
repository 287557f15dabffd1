"""A stage as a process of the machine that runs the task, under a reaper that ends all of it with the task."""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from airflow_ml.compute import reaper
from airflow_ml.compute.base import Handle, JobState, Phase
from airflow_ml.compute.exchange import hold, read_response, remove_old, write_request
from airflow_ml.lifecycle.protocol import REQUEST, RESPONSE
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.spec import LocalCompute

_PR_SET_PDEATHSIG = 1
_CHUNK = 1 << 16
_REAPER_S = 10.0
_AIRFLOWS_OWN = ("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_", "_AIRFLOW_", "__AIRFLOW_")
"""Settings of Airflow itself: they hold its database's and its API's secrets, and a job has no use for them."""


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    lifeline: int
    output: int
    rest: bytes = b""
    lines: list[str] = field(default_factory=list)

    def read(self) -> None:
        """Take what is in the pipe; what follows the last newline waits for its end."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.output, _CHUNK):
                *lines, self.rest = (self.rest + chunk).split(b"\n")
                self.lines += [line.decode("utf-8", "replace").rstrip("\r") for line in lines]


class LocalProcess:
    """Jobs as processes. Log lines come through a pipe, never a file, so that whoever shows them can mask secrets.

    Args:
        spec: Interpreter and grace.
        module: What ``python -m`` runs, with the paths of the request and the response.
    """

    outlives_task: ClassVar[bool] = False
    trigger: ClassVar[str | None] = None
    kind: ClassVar[str] = "local"

    def __init__(self, spec: LocalCompute | None = None, module: str = "airflow_ml.stages") -> None:
        self.spec = spec or LocalCompute()
        self.module = module
        self._running: dict[str, _Running] = {}

    def submit(self, request: JobRequest, secrets: Mapping[str, str], timeout_s: float | None = None) -> Handle:
        """Start the job under a reaper of its own; both hold the request as long as they live."""
        remove_old(request.platform.base, request.model.name)
        folder = write_request(request)
        held = hold(folder)
        job = [self.spec.python or sys.executable, "-m", self.module, str(folder / REQUEST), str(folder / RESPONSE)]
        read_lifeline, write_lifeline = os.pipe()
        output, job_output = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", reaper.__file__, str(read_lifeline), str(self.spec.grace_s), *job],
                # The task's own standard input is the socket to its supervisor: a child that holds it keeps the task
                # alive.
                stdin=subprocess.DEVNULL,
                stdout=job_output,
                stderr=job_output,
                pass_fds=(read_lifeline, held),
                start_new_session=True,
                cwd=folder,
                env=job_environment(os.environ, secrets),
            )
        except BaseException:
            os.close(write_lifeline)
            os.close(output)
            raise
        finally:
            os.close(read_lifeline)
            os.close(job_output)
            os.close(held)
        os.set_blocking(output, False)
        handle = Handle(kind=self.kind, id=folder.name, folder=str(folder), pid=process.pid)
        self._running[handle.id] = _Running(process, write_lifeline, output)
        return handle

    def poll(self, handle: Handle) -> JobState:
        """Look at the process; a job of another task is over with that task."""
        running = self._running.get(handle.id)
        code = None if running is None else running.process.poll()
        if running is not None and code is None:
            return JobState(Phase.RUNNING)
        return JobState(Phase.ENDED, code, read_response(handle.folder))

    def logs(self, handle: Handle) -> list[str]:
        """Whole lines so far; the last one of an ended job need not end with a newline."""
        running = self._running.get(handle.id)
        if running is None:
            return []
        running.read()
        lines, running.lines = running.lines, []
        if running.rest and running.process.returncode is not None:
            lines.append(running.rest.decode("utf-8", "replace"))
            running.rest = b""
        return lines

    def pause(self, handle: Handle, seconds: float) -> None:
        """Wait; output or the end of the job ends the wait."""
        running = self._running.get(handle.id)
        if running is not None:
            select.select([running.output], [], [], seconds)

    def cancel(self, handle: Handle, wait: bool = True) -> None:
        """Have the reaper end the job and all of its descendants."""
        running = self._running.get(handle.id)
        if running is None:
            return
        running.process.terminate()
        if not wait:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(self.spec.grace_s + _REAPER_S)
        # Closing the lifeline is the second way of saying the same.
        os.close(running.lifeline)
        os.close(running.output)
        del self._running[handle.id]


def job_environment(environ: Mapping[str, str], secrets: Mapping[str, str]) -> dict[str, str]:
    """Environment of a job: ours without Airflow's settings, import paths as they are here, and the secrets.

    Import paths of this interpreter's own installation are left out, so that a job may run under another one.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith(_AIRFLOWS_OWN)}
    own = tuple({os.path.realpath(prefix) for prefix in (sys.prefix, sys.base_prefix)})
    paths = [path for path in sys.path if path and not os.path.realpath(path).startswith(own)]
    package = str(Path(__file__).parents[2])
    if package not in paths and not os.path.realpath(package).startswith(own):
        paths.append(package)
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **secrets}


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends.

    A task whose supervisor was killed would otherwise go on, silently, while Airflow starts the next try. Linux only:
    elsewhere such a task goes on until it next writes a log line.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
