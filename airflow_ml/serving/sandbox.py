"""A model server of one's own, for as long as a ``with`` block lasts.

The gate loads a candidate into a real server process before anybody trusts it. The process has a group of its own, and
its end is certain: with the block, with an error, and (Linux) with the death of the process that started it, even by
SIGKILL.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.client import Client, connect
from airflow_ml.serving.deployment import CONFIG_NAME
from airflow_ml.serving.server.launch import base_flags, command, is_real

_READY = re.compile(r"ready: grpc (\S+) rest (\S+)")
_GRACE = 8.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class RunningServer:
    """A server that answers.

    Attributes:
        grpc: ``grpc://host:port``.
        rest: ``http://host:port``.
        pid: Its process, which leads a process group.
        model: The model's name, if it serves a single SavedModel.
        version: That model's version.
        log: Its output.
    """

    grpc: str
    rest: str
    pid: int
    model: str
    version: int
    log: Path

    def connect(self, protocol: str = "grpc") -> Client:
        """A client, over ``grpc`` or ``rest``."""
        return connect(self.grpc if protocol == "grpc" else self.rest)


@contextmanager
def model_server(
    source: Path, *, model: str = "model", version: int = 1, timeout: float = 120.0, flags: Sequence[str] = ()
) -> Iterator[RunningServer]:
    """Run a model server.

    Args:
        source: A SavedModel, or a serving base with a ``models.config``.
        model: The name under which a SavedModel is served.
        version: Its version.
        timeout: How long it may take until it answers, in seconds; loading TensorFlow takes several.
        flags: More flags, as TF Serving names them.

    Raises:
        ServingError: it ended, or did not answer in time; the end of its log is in the message.
    """
    with tempfile.TemporaryDirectory(prefix="airflow-ml-serving-") as scratch:
        folder = Path(scratch)
        if (source / "saved_model.pb").is_file():
            base = folder / model
            base.mkdir()
            (base / str(version)).symlink_to(source.absolute())
            # a candidate that does not load will not load a minute later either
            argv = [f"--model_name={model}", f"--model_base_path={base}", "--max_num_load_retries=0"]
        elif (source / CONFIG_NAME).is_file():
            argv = base_flags(source)
        else:
            raise ServingError(
                f"neither a SavedModel nor a serving base (no saved_model.pb, no {CONFIG_NAME})",
                str(source),
                "export first",
            )
        log = folder / "server.log"
        ports = (_free_port(), _free_port()) if is_real() else (0, 0)
        full = command([f"--port={ports[0]}", f"--rest_api_port={ports[1]}", *argv, *flags])
        with log.open("wb") as output:
            process = subprocess.Popen(
                full, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=_die_with_parent(),
            )  # fmt: skip
        try:
            grpc, rest = _wait_ready(process, log, ports, timeout)
            yield RunningServer(f"grpc://{grpc}", f"http://{rest}", process.pid, model, version, log)
        finally:
            end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all of its group: SIGTERM, some seconds, SIGKILL."""
    _signal_group(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def _die_with_parent() -> Callable[[], None] | None:
    """What the child does before it becomes the server: ask the kernel to be killed when its parent dies."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded here: a child between fork and exec must not
    parent = os.getpid()

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask


def _wait_ready(process: subprocess.Popen[bytes], log: Path, ports: tuple[int, int], timeout: float) -> tuple[str, str]:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if process.poll() is not None:
            raise ServingError(
                f"the model server ended with status {process.returncode}: {_tail(log)}",
                " ".join(process.args) if isinstance(process.args, list) else str(process.args),
                "its log says why; a model that a server cannot load cannot be released",
            )
        if ports == (0, 0):
            match = _READY.search(log.read_text(errors="replace"))
            if match:
                return match[1], match[2]
        elif all(_listens(port) for port in ports):
            return f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
        time.sleep(0.05)
    raise ServingError(
        f"the model server did not answer within {timeout:g} s: {_tail(log)}",
        "",
        "give it more time, or look at the model",
    )


def _tail(log: Path, lines: int = 8) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) or "(it said nothing)"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
