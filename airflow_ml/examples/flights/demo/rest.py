"""A small client of Airflow's public REST API: what the demo and the system test drive Airflow with."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_ml.lifecycle.errors import JobFailed

POLL_S = 2.0
"""Each look costs the API server as much CPU as a small task; it is shared with the tasks that it looks at."""
_DONE = {"success", "failed"}


@dataclass(frozen=True)
class TaskRow:
    """One task instance, as the REST API shows it."""

    run_id: str
    task_id: str
    map_index: int
    state: str | None
    duration: float | None
    span: tuple[float, float] | None = None
    """Begin and end by the clock, in seconds; None for a task that did not run."""


class AirflowRest:
    """Airflow's REST API as one user.

    Args:
        url: Of the API server.
        user: Of the simple auth manager.
        password: Of that user.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url.rstrip("/")
        self._credentials = {"username": user, "password": password}
        self._token = ""

    def healthy(self) -> bool:
        """Whether metadata database, scheduler, triggerer and DAG processor are."""
        try:
            parts = self.call("GET", "/api/v2/monitor/health")
        except (OSError, JobFailed):
            return False
        return all(
            (parts.get(name) or {}).get("status") == "healthy"
            for name in ("metadatabase", "scheduler", "triggerer", "dag_processor")
        )

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request; a 401 fetches a new token once.

        Raises:
            JobFailed: Any other status of 400 or more, with what the server says.
        """
        for last in (False, True):
            try:
                return self._send(method, path, body, {"Authorization": f"Bearer {self._token}"} if self._token else {})
            except urllib.error.HTTPError as error:
                if error.code == 401 and not last:
                    self._token = self._send("POST", "/auth/token", self._credentials, {})["access_token"]
                    continue
                raise JobFailed(
                    f"{method} {path}: {error.code} {error.read().decode(errors='replace')[:500]}", where=self.url
                ) from error
        raise AssertionError("unreachable: the second try returns or raises")

    def _send(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path,
            data,
            {"Content-Type": "application/json", "Accept": "application/json", **headers},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read()
        return json.loads(text) if text else {}

    # DAGs and runs

    def dag_ids(self) -> set[str]:
        """Ids of the DAGs that the DAG processor has found."""
        return {dag["dag_id"] for dag in self.call("GET", "/api/v2/dags?limit=100")["dags"]}

    def import_errors(self) -> list[str]:
        """Stack traces of DAG files that do not parse."""
        return [error["stack_trace"] for error in self.call("GET", "/api/v2/importErrors")["import_errors"]]

    def unpause(self, dag_id: str) -> None:
        """Let a DAG's runs be scheduled."""
        self._paused(dag_id, False)

    def pause(self, dag_id: str) -> None:
        """Leave a DAG's new runs queued."""
        self._paused(dag_id, True)

    def _paused(self, dag_id: str, paused: bool) -> None:
        self.call("PATCH", f"/api/v2/dags/{dag_id}?update_mask=is_paused", {"is_paused": paused})

    def trigger(
        self, dag_id: str, conf: Mapping[str, Any], logical_date: str | None = None, run_id: str | None = None
    ) -> str:
        """Start a run; returns its id."""
        body: dict[str, Any] = {"conf": dict(conf), "logical_date": logical_date}
        if run_id:
            body["dag_run_id"] = run_id
        return str(self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """One run: state, note, dates, conf."""
        found: dict[str, Any] = self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id, safe='')}")
        return found

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """All runs of a DAG, oldest first."""
        found: list[dict[str, Any]] = self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns?limit=100&order_by=run_after")[
            "dag_runs"
        ]
        return found

    def tasks(self, dag_id: str, run_id: str) -> list[TaskRow]:
        """Task instances of a run."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id, safe='')}/taskInstances?limit=100"
        return [
            TaskRow(run_id, found["task_id"], found["map_index"], found["state"], found["duration"], _span(found))
            for found in self.call("GET", path)["task_instances"]
        ]

    def result(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """What a task returned; empty when it returned nothing."""
        run = urllib.parse.quote(run_id, safe="")
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run}/taskInstances/{task_id}/xcomEntries/return_value?deserialize=true"
        try:
            value = self.call("GET", path)["value"]
        except JobFailed as error:
            if ": 404 " in error.what:
                return {}
            raise
        return value if isinstance(value, dict) else {}

    def wait(
        self, dag_id: str, run_id: str, timeout_s: float, on_task: Callable[[TaskRow], None] = lambda row: None
    ) -> str:
        """Wait for a run to end.

        Args:
            dag_id: The DAG.
            run_id: The run.
            timeout_s: How long.
            on_task: Called once for each task that ended.

        Returns:
            ``success`` or ``failed``.
        """
        seen: set[tuple[str, int]] = set()
        deadline = time.monotonic() + timeout_s
        while True:
            state = str(self.run(dag_id, run_id)["state"])
            for row in self.tasks(dag_id, run_id):
                if (
                    row.state in {"success", "failed", "skipped", "upstream_failed"}
                    and (row.task_id, row.map_index) not in seen
                ):
                    seen.add((row.task_id, row.map_index))
                    on_task(row)
            if state in _DONE:
                return state
            if time.monotonic() > deadline:
                raise JobFailed(
                    f"run {run_id} is still {state} after {timeout_s:.0f} s",
                    where=dag_id,
                    remedy="look at it in the UI",
                )
            time.sleep(POLL_S)

    def backfills(self, dag_id: str) -> list[dict[str, Any]]:
        """Backfills of a DAG; ``completed_at`` is null while one is active."""
        found: list[dict[str, Any]] = self.call("GET", f"/api/v2/backfills?dag_id={dag_id}")["backfills"]
        return found


def _span(found: Mapping[str, Any]) -> tuple[float, float] | None:
    if not found.get("start_date") or not found.get("end_date"):
        return None
    begin, end = (datetime.fromisoformat(found[name]).timestamp() for name in ("start_date", "end_date"))
    return begin, end
