"""The demo's long-running processes: an Airflow and the model server, each ended with all that it started."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from airflow_ml.lifecycle.errors import JobFailed

START_TIMEOUT_S = 180
"""`airflow standalone` needs up to a minute on cold bytecode; a loaded laptop twice that."""

_GRACE_S = 8


@dataclass(frozen=True)
class Addresses:
    """Ports on loopback that were free when the demo began."""

    airflow: int
    grpc: int
    rest: int
    worker_logs: int
    trigger_logs: int
    mlflow: int

    @classmethod
    def free(cls, usual: bool = True) -> "Addresses":
        """Ports for one deployment.

        Args:
            usual: Take those that people expect, where they are free.
        """
        taken: set[int] = set()
        return cls(*(_free_port(port if usual else 0, taken) for port in (8080, 8500, 8501, 8793, 8794, 5000)))


def _free_port(wanted: int, taken: set[int]) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found = int(probe.getsockname()[1])
            if found not in taken:
                taken.add(found)
                return found
    raise JobFailed("no free port on loopback", where="127.0.0.1")


def airflow_environment(home: Path, base: Path, dags: Path, addresses: Addresses) -> dict[str, str]:
    """Configuration of the demo's Airflow: SQLite, four workers, loopback, our ``[airflow_ml]`` section."""
    url = f"http://127.0.0.1:{addresses.airflow}"
    ours = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(addresses.airflow),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(addresses.worker_logs),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(addresses.trigger_logs),
        # One more scheduler loop a second is what a small SQLite can take, and a task waits that much less for the
        # next.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "AIRFLOW__AIRFLOW_ML__BASE": str(base),
        "AIRFLOW__AIRFLOW_ML__SERVING_GRPC": f"127.0.0.1:{addresses.grpc}",
        "AIRFLOW__AIRFLOW_ML__SERVING_REST": f"127.0.0.1:{addresses.rest}",
        "AIRFLOW_ML_BASE": str(base),
        "AIRFLOW_ML_SERVING_GRPC": f"127.0.0.1:{addresses.grpc}",
        "AIRFLOW_ML_SERVING_REST": f"127.0.0.1:{addresses.rest}",
        # `airflow` and the stages' tools must be those of this environment, whatever the shell's PATH says.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
    }
    # Settings of another Airflow in the caller's shell would change what the demo shows.
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("AIRFLOW__", "AIRFLOW_HOME", "AIRFLOW_ML_"))
    }
    return kept | ours


@contextmanager
def process(
    name: str, command: list[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, whose whole tree is ended on the way out.

    `airflow standalone` leaves workers behind on SIGTERM, which ignore it from then on; so the tree is asked, then
    ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        _end_tree(child, name)


def _end_tree(child: subprocess.Popen[bytes], name: str) -> None:
    members = _members(child.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline and (members := members | _members(child.pid)) and any(map(_alive, members)):
        child.poll()
        time.sleep(0.2)
    for pid in sorted(members | _members(child.pid)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    child.wait(timeout=_GRACE_S)


def _members(root: int) -> set[int]:
    """Descendants of a process, and members of its session: children that changed parent are still in the session."""
    parents: dict[int, int] = {}
    found = {root}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z":
                continue
            parents[int(entry.name)] = int(fields[1])
            if int(fields[3]) == root:
                found.add(int(entry.name))
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        grown = bool(more)
        found |= more
    return found & set(parents)


def _alive(pid: int) -> bool:
    try:
        return (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() or ["Z"])[0] != "Z"
    except OSError:
        return False


def wait_until(ready: Callable[[], bool], child: subprocess.Popen[bytes], what: str, log: Path) -> None:
    """Wait until a process is ready.

    Raises:
        JobFailed: It ended, or was not ready in time; with the end of its log.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if ready():
            return
        if child.poll() is not None:
            raise JobFailed(
                f"{what} ended with code {child.returncode}: {tail(log)}", where=str(log), remedy="read its log"
            )
        time.sleep(0.5)
    raise JobFailed(
        f"{what} was not ready after {START_TIMEOUT_S} s: {tail(log)}", where=str(log), remedy="read its log"
    )


def tail(log: Path, lines: int = 5) -> str:
    """The last lines of a log, on one line."""
    with contextlib.suppress(OSError):
        return " | ".join(log.read_text(errors="replace").splitlines()[-lines:])
    return "no log"
