"""What of a job is news: facts that were not told yet, and log lines after those that were. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_ml.compute.base import Phase
from airflow_ml.compute.kubernetes.facts import Fact, index_of, main_pod, name_of
from airflow_ml.compute.kubernetes.observing import Observation

Object = Mapping[str, Any]

LOG_BYTES = 1 << 20
LAST_LINES: Mapping[str, Any] = {"container": "base", "tailLines": 15}
"""Query for the end of a log."""


@dataclass
class Told:
    """What one who waits for a job has been told so far.

    Attributes:
        facts: Of its pods.
        queued: What it has been said to wait for, since it waits in its queue.
        pod: Whose log is told.
        until: Time of the last line that was told, as Kubernetes writes it.
    """

    facts: set[Fact] = field(default_factory=set)
    queued: set[str] = field(default_factory=set)
    pod: str = ""
    until: str = ""

    def news(self, seen: Observation) -> list[str]:
        """Lines for what was not told yet."""
        new = [fact for fact in seen.facts if fact not in self.facts]
        self.facts.update(new)
        return [*self._queue(seen), *map(_warning, new)]

    def _queue(self, seen: Observation) -> list[str]:
        if seen.queued is None:
            let_go = bool(self.queued) and seen.state.phase is Phase.RUNNING
            self.queued.clear()
            return ["INFO its queue has let it go"] if let_go else []
        new = seen.queued not in self.queued
        self.queued.add(seen.queued)
        return [f"INFO it {seen.queued}"] if new else []

    def log_of(self, pods: Sequence[Object]) -> tuple[str, dict[str, Any]] | None:
        """Pod whose log is to be read, and the query; None before there is one."""
        pod = main_pod(pods)
        if pod is None:
            return None
        if name_of(pod) != self.pod:
            self.pod, self.until = name_of(pod), ""
        query = {"container": "base", "timestamps": "true", "limitBytes": LOG_BYTES}
        return self.pod, query | ({"sinceTime": self.until} if self.until else {})

    def new_lines(self, text: str) -> list[str]:
        """Lines of a log that was read with `log_of`'s query."""
        found: list[str] = []
        for line in text.splitlines():
            at, _, words = line.partition(" ")
            # The same second is read again.
            if at > self.until:
                self.until = at
                found.append(words)
        return found


def others(pods: Sequence[Object]) -> list[Object]:
    """Pods whose logs are not the task's, in their order."""
    return [pod for pod in sorted(pods, key=index_of) if index_of(pod) != 0]


def last_lines(pod: Object, text: str) -> list[str]:
    """The end of another pod's log, as lines of the task's."""
    return [f"INFO pod {name_of(pod)}: {line}" for line in text.splitlines()]


def _warning(fact: Fact) -> str:
    return f"WARNING {fact}" + (f". Remedy: {fact.remedy}" if fact.remedy else "")
