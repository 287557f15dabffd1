"""An Airflow whose components are processes of their own, so that one of them can be killed and started again."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from airflow_ml.examples.flights.demo.processes import Addresses, airflow_environment, process, wait_until
from airflow_ml.examples.flights.demo.rest import AirflowRest

COMPONENTS = ("api-server", "dag-processor", "scheduler", "triggerer")

# Who is gone is missed within seconds instead of minutes.
_IMPATIENT = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "12",
    "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of the tests, long enough for its hash",
}


class Components:
    """A deployment that runs.

    Attributes:
        rest: Its REST API.
    """

    def __init__(self, rest: AirflowRest, environment: Mapping[str, str], root: Path, stack: ExitStack) -> None:
        self.rest = rest
        self._environment = environment
        self._root = root
        self._stack = stack
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._starts = 0

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a component; it is ended with the deployment."""
        self._starts += 1
        log = self._root / f"{name}-{self._starts}.log"
        command = [sys.executable, "-m", "airflow", name]
        self._running[name] = self._stack.enter_context(process(name, command, self._environment, log))
        return self._running[name]

    def kill(self, name: str) -> None:
        """Kill a component with all processes of its group, by signal 9."""
        os.killpg(self._running[name].pid, signal.SIGKILL)
        self._running[name].wait(10)


@contextmanager
def components(root: Path, base: Path, dags: Path, settings: Mapping[str, str]) -> Iterator[Components]:
    """A deployment, ended with all processes that it started.

    Args:
        root: Its home and logs.
        base: Base folder of the platform.
        dags: Folder of DAG files, all of which have to be parsed.
        settings: More variables.
    """
    home = root / "airflow"
    home.mkdir(parents=True)
    (home / "passwords.json").write_text(json.dumps({"admin": "test"}))
    addresses = Addresses.free(usual=False)
    environment = airflow_environment(home, base, dags, addresses) | _IMPATIENT | dict(settings)
    migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(migrate, env=environment, check=True, capture_output=True, timeout=300)
    with ExitStack() as stack:
        rest = AirflowRest(f"http://127.0.0.1:{addresses.airflow}", "admin", "test")
        made = Components(rest, environment, root, stack)
        for name in COMPONENTS:
            child = made.start(name)
        wait_until(rest.healthy, child, "Airflow", root / f"{name}-{len(COMPONENTS)}.log")
        names = {path.stem for path in dags.glob("*.py")}
        wait_until(lambda: bool(rest.dag_ids()), child, f"DAGs of {names}", root / "dag-processor-2.log")
        assert rest.import_errors() == []
        yield made
