"""Rollouts of good and bad versions while requests flow through a real gateway: what a client of it sees.

The bench `rollout` prints what the test asserts.
"""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_ml import Platform
from airflow_ml.gateway.load import Load
from airflow_ml.lifecycle.rollout import CANARY, State
from airflow_ml.lifecycle.routing import STABLE
from airflow_ml.registry import rollouts
from airflow_ml.spec.serving import Judging
from tests.support.online import NAME, ROOT, RunningGateway, gateway
from tests.support.rollouts import ROWS, Base, canaried, graded

RATE = 200
"""Requests a second."""

STEP = 0.2
GOOD, SLOW, NAN, CRASHES, SHIFTED = 2, 3, 4, 5, 6
KINDS = {GOOD: "good", SLOW: "slow", NAN: "returns NaN", CRASHES: "crashes at load", SHIFTED: "shifted scores"}
SHIFTS = {GOOD: 0.02, SHIFTED: 3.0}

model = canaried(
    shadow=False,
    steps=(STEP,),
    watch_s=4.0,
    # The few entities of the clients are split by their keys: two good versions differ by .3 on them, the shifted by 4.
    judging=Judging(min_requests=100, max_wait_s=8, latency_factor=4, score_limit=1.0),
)


def saved_models(made: Path) -> dict[int, Path]:
    """The champion, and the five."""
    crashes = made / "crashes"
    crashes.mkdir(parents=True)
    (crashes / "saved_model.pb").write_bytes(b"not a graph")
    return {
        1: graded(made / "1"),
        GOOD: graded(made / "2", SHIFTS[GOOD]),
        SLOW: graded(made / "3", sleep_ms=200),
        NAN: graded(made / "4", nan_from=12),
        CRASHES: crashes,
        SHIFTED: graded(made / "6", SHIFTS[SHIFTED]),
    }


@dataclass
class Seen:
    """What clients saw of one rollout.

    Attributes:
        summary: Of its last run.
        requests: Of all arms.
        failed: Without an answer, by kind.
        stable_failed: Rows of the stable arm without an answer, as the gateway counted them: an error names no arm.
        canary: Rows whose turn it was the new version's.
        rescued: Of these, answered by the stable one.
        stable_rescued: Rows of the stable arm that another version answered.
        took_s: From the first run to the last.
        back_s: From the verdict until nothing more was answered by the new version; None where it went nowhere.
    """

    summary: dict[str, Any] = field(default_factory=dict)
    requests: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    stable_failed: int = 0
    canary: int = 0
    rescued: int = 0
    stable_rescued: int = 0
    took_s: float = 0.0
    back_s: float | None = None


class Clients:
    """A steady stream of requests to a gateway, from a thread of its own."""

    def __init__(self, running: RunningGateway) -> None:
        self._running = running
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self.load = asyncio.run_coroutine_threadsafe(self._started(), self._loop).result(30)

    async def _started(self) -> Load:
        return await Load(self._running.rest, NAME, ROWS, "id", RATE).__aenter__()

    def stable_failed(self) -> int:
        """Rows of the stable arm without an answer, since the gateway began."""
        return int(self._running.counted("predictions_total", arm=STABLE, outcome="failed"))

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.load.__aexit__(None, None, None), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@contextmanager
def flowing(platform: Platform) -> Iterator[Clients]:
    """A gateway, and clients that ask it all the time."""
    with gateway(platform, f"{__name__}:model") as running:
        clients = Clients(running)
        clients.start()
        try:
            yield clients
        finally:
            clients.stop()


def roll_out(base: Base, clients: Clients, version: int) -> Seen:
    """Roll a version out until it is kept or rolled back."""
    seen = Seen()
    watch = _Watch(base, clients, version, seen)
    began = time.monotonic()
    watch.start()
    try:
        seen.summary = base.run(version=version, by="a test")
        while seen.summary["open"]:
            time.sleep(seen.summary["look_again_s"])
            seen.summary = base.run(version=version, by="a test")
        seen.took_s = time.monotonic() - began
        if seen.summary["state"] == State.ROLLED_BACK:
            time.sleep(1.5)  # whatever the gateway would still send there
    finally:
        watch.stop()
    return seen


def roll_back(base: Base, clients: Clients, version: int) -> Seen:
    """``airflow-ml rollback``, from the champion that is ``version``; `Seen.back_s` counts from its start."""
    seen = Seen()
    environment = {
        **os.environ,
        "AIRFLOW_ML_BASE": base.platform.base,
        "AIRFLOW_ML_SERVING_FOLDER": base.platform.serving_folder,
        "AIRFLOW_ML_SERVING_GRPC": base.platform.serving.grpc,
        "AIRFLOW_ML_SERVING_REST": base.platform.serving.rest,
    }
    command = [sys.executable, "-m", "airflow_ml.cli", "rollback", f"{__name__}:model", "--reason", "a test"]
    watch = _Watch(base, clients, version, seen, time.monotonic())
    watch.start()
    try:
        ended = subprocess.run(
            command, env=environment, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == 0, ended.stderr
        time.sleep(1.5)
    finally:
        watch.stop()
    return seen


class _Watch:
    """Looks at the record and at the answers ten times a second."""

    def __init__(self, base: Base, clients: Clients, version: int, seen: Seen, verdict: float | None = None) -> None:
        self._base, self._clients, self._version, self._seen = base, clients, version, seen
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._verdict = verdict
        self._last: float | None = None

    def start(self) -> None:
        self._clients.load.take()
        self._failed_before = self._clients.stable_failed()
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(10)
        self._seen.stable_failed = self._clients.stable_failed() - self._failed_before
        if self._verdict is not None:
            self._seen.back_s = max((self._last or self._verdict) - self._verdict, 0.0)

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            now = time.monotonic()
            record = rollouts.current(self._base.platform, NAME)
            going = (State.ROLL_BACK, State.ROLLED_BACK)
            if self._verdict is None and record and record.version == self._version and record.state in going:
                self._verdict = now
            found = self._clients.load.take()
            seen = self._seen
            seen.requests += found.requests
            seen.failed += found.failed
            seen.canary += found.answered[CANARY]
            seen.rescued += found.fallbacks[CANARY]
            seen.stable_rescued += found.fallbacks[STABLE]
            if found.versions[self._version] or found.answered[CANARY]:
                self._last = now
