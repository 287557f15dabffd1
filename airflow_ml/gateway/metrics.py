"""What the gateway tells Prometheus: rates, errors, latencies and scores by arm, and the state of its log."""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from airflow_ml.lifecycle.routing import STABLE, Routing

_LATENCY_S = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_SCORES = tuple(step / 20 for step in range(1, 20))
_OF_AN_ARM = ("arm", "model_version")


@dataclass(frozen=True, slots=True)
class OfArm:
    """The series of one version in one arm, found once: looking one up costs as much as counting in it.

    Attributes:
        latency: Of a call.
        score: That it gave.
    """

    latency: Histogram
    score: Histogram


class Metrics:
    """All series of one gateway, in a registry of its own.

    Args:
        model: Name; a label of every series.
    """

    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        self._model = model
        self._arms: dict[tuple[str, int], OfArm] = {}
        self.predictions = self._counter(
            "predictions",
            "Rows by who should have answered, and how it went: answered, fallback or failed.",
            *_OF_AN_ARM,
            "outcome",
        )
        self.errors = self._counter("errors", "Calls of a version that gave no usable answer.", *_OF_AN_ARM, "error")
        self.refused = self._counter("refused", "Requests that were the caller's mistake.", "reason")
        self.internal_errors = self._counter(
            "internal_errors", "Requests that failed by a mistake of the gateway's own."
        )
        self._latency = self._histogram("latency_seconds", "Of a call of a version.", _LATENCY_S, *_OF_AN_ARM)
        self.requests = self._histogram(
            "request_seconds", "Of a request, from its features to its answer.", _LATENCY_S, "protocol"
        )
        self._scores = self._histogram("score", "Probabilities that a version gave.", _SCORES, *_OF_AN_ARM)
        self.shadows_dropped = self._counter("shadow_dropped", "Copies not sent: the version hangs or fails.")
        self.weights = self._gauge("weight", "Share of the traffic.", *_OF_AN_ARM)
        self.routing_errors = self._counter("routing_errors", "Times the release record could not be read.")
        self.log_rows = self._counter("log_rows", "Rows of the prediction log, by what became of them.", "fate")
        self.log_failures = self._counter("log_failures", "Commits to the lake that failed and are tried again.")
        self.log_bytes = self._gauge("log_spool_bytes", "On the local disk, not yet in the lake.")
        for fate in ("spooled", "committed", "recovered", "lost"):
            self.log_rows.labels(model, fate)
        for counter in (self.internal_errors, self.shadows_dropped, self.routing_errors, self.log_failures):
            counter.labels(model)

    def of_arm(self, arm: str, version: int) -> OfArm:
        """What is observed at each call of a version."""
        found = self._arms.get((arm, version))
        if found is None:
            labels = (self._model, arm, str(version))
            found = self._arms[arm, version] = OfArm(self._latency.labels(*labels), self._scores.labels(*labels))
        return found

    def routed(self, routing: Routing) -> None:
        """Show the weights that hold now."""
        self.weights.clear()
        rest = 1.0
        for arm in routing.arms:
            self.weights.labels(self._model, arm.name, str(arm.version)).set(arm.weight)
            rest -= arm.weight
        self.weights.labels(self._model, STABLE, str(routing.stable)).set(max(rest, 0.0))

    def text(self) -> bytes:
        """All series in Prometheus's text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"airflow_ml_gateway_{name}", says, ("model", *labels), registry=self._registry)

    def _gauge(self, name: str, says: str, *labels: str) -> Gauge:
        return Gauge(f"airflow_ml_gateway_{name}", says, ("model", *labels), registry=self._registry)

    def _histogram(self, name: str, says: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(
            f"airflow_ml_gateway_{name}", says, ("model", *labels), buckets=tuple(buckets), registry=self._registry
        )
