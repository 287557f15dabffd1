"""What the server counts, as Prometheus reads it, under TF Serving's names.

A name like ``/tensorflow/serving/request_count`` is written ``:tensorflow:serving:request_count``; times are in
microseconds.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/util/prometheus_exporter.cc
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections.abc import Sequence

#: Upper limits of histograms of times: from 10 µs by factors of 1.8, 33 of them, some 20 minutes.
MICROSECONDS = tuple(10 * 1.8**i for i in range(33))

#: Upper limits of histograms of counts: 1, 2, 4 … 16,384.
COUNTS = tuple(float(2**i) for i in range(15))


class Counter:
    """A number that grows, by label values.

    Args:
        name: As TensorFlow names it, with slashes.
        labels: Names of its labels.
    """

    def __init__(self, name: str, labels: Sequence[str]) -> None:
        self._name = _metric_name(name)
        self._labels = tuple(labels)
        self._lock = threading.Lock()
        self._values: dict[tuple[str, ...], int] = {}

    def add(self, *values: str, by: int = 1) -> None:
        """Count."""
        with self._lock:
            self._values[values] = self._values.get(values, 0) + by

    def lines(self) -> list[str]:
        """As text; nothing as long as nothing was counted."""
        with self._lock:
            found = sorted(self._values.items())
        if not found:
            return []
        return [
            f"# TYPE {self._name} counter",
            *(f"{self._name}{{{_labelled(self._labels, values)}}} {count}" for values, count in found),
        ]


class Histogram:
    """How large observed values are, by label values.

    Args:
        name: As TensorFlow names it, with slashes.
        labels: Names of its labels.
        limits: Upper limits of the buckets; the last bucket has none.
    """

    def __init__(self, name: str, labels: Sequence[str], limits: Sequence[float] = MICROSECONDS) -> None:
        self._name = _metric_name(name)
        self._labels = tuple(labels)
        self._limits = tuple(limits)
        self._lock = threading.Lock()
        self._cells: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}

    def observe(self, value: float, *values: str) -> None:
        """Count a value."""
        with self._lock:
            cell = self._cells.get(values)
            if cell is None:
                cell = self._cells[values] = ([0] * (len(self._limits) + 1), [0.0])
            cell[0][bisect_left(self._limits, value)] += 1
            cell[1][0] += value

    def lines(self) -> list[str]:
        """As text; nothing as long as nothing was observed."""
        with self._lock:
            found = sorted((values, list(buckets), total[0]) for values, (buckets, total) in self._cells.items())
        lines = [f"# TYPE {self._name} histogram"] if found else []
        for values, buckets, total in found:
            labels = _labelled(self._labels, values)
            seen = 0
            for limit, count in zip((*(f"{limit:g}" for limit in self._limits), "+Inf"), buckets, strict=True):
                seen += count
                lines.append(f'{self._name}_bucket{{{labels},le="{limit}"}} {seen}')
            lines += [f"{self._name}_sum{{{labels}}} {total:g}", f"{self._name}_count{{{labels}}} {seen}"]
        return lines


class Metrics:
    """All of them, for one server.

    Attributes:
        requests: Answered and refused requests, by model and status.
        latency: From the request to the answer, by model, API and entry point (GRPC, REST), of what was answered.
        runtime: Of that, TensorFlow.
        examples: ``tf.Example`` in one request to classify or regress.
        examples_total: Their sum.
        loads: Attempts to load a version, by path and status.
        load_time: How long the successful ones took.
        warmup: How long warm-up took, by path and status.
    """

    def __init__(self) -> None:
        self.requests = Counter("/tensorflow/serving/request_count", ("model_name", "status"))
        self.latency = Histogram("/tensorflow/serving/request_latency", ("model_name", "API", "entrypoint"))
        self.runtime = Histogram("/tensorflow/serving/runtime_latency", ("model_name", "API", "runtime"))
        self.examples = Histogram("/tensorflow/serving/request_example_counts", ("model",), COUNTS)
        self.examples_total = Counter("/tensorflow/serving/request_example_count_total", ("model",))
        self.loads = Counter("/tensorflow/cc/saved_model/load_attempt_count", ("model_path", "status"))
        self.load_time = Counter("/tensorflow/cc/saved_model/load_latency", ("model_path",))
        self.warmup = Histogram("/tensorflow/serving/model_warmup_latency", ("model_path", "status"))

    def page(self) -> str:
        """The text that Prometheus scrapes."""
        return "\n".join(line for metric in vars(self).values() for line in metric.lines()) + "\n"


def _metric_name(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", ":", name)


def _labelled(names: Sequence[str], values: Sequence[str]) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return ",".join(f'{name}="{escaped(value)}"' for name, value in zip(names, values, strict=True))
