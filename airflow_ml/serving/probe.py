"""Does a server give the right numbers, and how fast?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.client import Client
from airflow_ml.serving.golden import GoldenRequest
from airflow_ml.spec.base import Frozen

if TYPE_CHECKING:
    import numpy as np

#: The largest difference to a golden answer, in probability. Wider than export parity: another CPU rounds otherwise.
TOLERANCE = 1e-4

_MAX_FAILURES_KEPT = 5


class Latency(Frozen):
    """How long answers took, in milliseconds, seen from the client."""

    p50_ms: float
    p99_ms: float
    requests: int


class ProbeReport(Frozen):
    """What came of asking a server golden requests.

    Attributes:
        ok: Every request was answered with the right numbers.
        max_abs_diff: Largest difference in probability; ``None`` if nothing was answered.
        latency: Of the answered requests; ``None`` if there are none.
        requests: Requests sent.
        failures: The first errors and wrong answers, in words.
    """

    ok: bool
    max_abs_diff: float | None
    latency: Latency | None
    requests: int
    failures: tuple[str, ...]


def probe(
    client: Client,
    golden: Sequence[GoldenRequest],
    model: str,
    version: int | None = None,
    tolerance: float = TOLERANCE,
) -> ProbeReport:
    """Ask all golden requests once and compare the answers.

    Args:
        client: Of the server.
        golden: Requests with their answers; none is a failure, because nothing was proved.
        model: Name.
        version: Which; ``None`` for the newest.
        tolerance: Largest difference in probability.
    """
    import numpy as np

    failures: list[str] = []
    times_ms: list[float] = []
    worst: float | None = None
    for index, request in enumerate(golden):
        began = time.perf_counter()
        try:
            answer = client.predict(model, request.columns(), version=version).probability.reshape(-1)
        except ServingError as error:
            failures.append(f"request {index}: {error}")
            continue
        times_ms.append((time.perf_counter() - began) * 1e3)
        expected = np.array(request.probability, dtype=np.float32)
        if answer.shape != expected.shape:
            failures.append(f"request {index}: {len(answer)} answers for {len(expected)} rows")
            continue
        difference = float(np.abs(answer - expected).max(initial=0.0))
        worst = difference if worst is None or not difference <= worst else worst
        if not difference <= tolerance:  # also when it is not a number
            failures.append(f"request {index}: the answer is {difference:.3g} off (allowed: {tolerance:g})")
    if not golden:
        failures.append("no golden requests: nothing was proved")
    return ProbeReport(
        ok=not failures,
        max_abs_diff=worst,
        latency=_latency(times_ms),
        requests=len(golden),
        failures=tuple(failures[:_MAX_FAILURES_KEPT]),
    )


def measure_latency(
    client: Client, golden: Sequence[GoldenRequest], model: str, version: int | None = None, requests: int = 200
) -> Latency:
    """The time of single-row requests, one after the other, after a few that do not count.

    Args:
        client: Of the server.
        golden: Where the rows come from, again and again.
        model: Name.
        version: Which; ``None`` for the newest.
        requests: How many are measured.

    Raises:
        ServingError: a request failed; a server that fails has no latency.
    """
    rows = _rows(golden)
    for _ in range(min(10, requests)):
        client.predict(model, next(rows), version=version)
    times_ms: list[float] = []
    for _ in range(requests):
        columns = next(rows)
        began = time.perf_counter()
        client.predict(model, columns, version=version)
        times_ms.append((time.perf_counter() - began) * 1e3)
    latency = _latency(times_ms)
    assert latency is not None
    return latency


def _rows(golden: Sequence[GoldenRequest]) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Single rows, round and round."""
    rows = [
        {name: column[i : i + 1] for name, column in columns.items()}
        for columns, size in ((request.columns(), len(request.probability)) for request in golden)
        for i in range(size)
    ]
    if not rows:
        raise ServingError("no golden requests to measure with", "", "run the export stage again")
    while True:
        yield from rows


def _latency(times_ms: Sequence[float]) -> Latency | None:
    import numpy as np

    if not times_ms:
        return None
    p50, p99 = (float(value) for value in np.percentile(times_ms, [50, 99]))
    return Latency(p50_ms=p50, p99_ms=p99, requests=len(times_ms))
