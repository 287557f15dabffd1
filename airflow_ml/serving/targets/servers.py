"""What a rollout asks of the servers: publish, load, wait for all replicas, move a label, look."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.client import Client
from airflow_ml.serving.errors import ReplicasBehind, ServerUnreachable
from airflow_ml.serving.targets import configuration
from airflow_ml.serving.targets.configuration import Configured, Edit
from airflow_ml.serving.targets.reloading import Reloading
from airflow_ml.serving.targets.replicas import Lag, Replicas
from airflow_ml.serving.targets.shelves import Shelf
from airflow_ml.serving.targets.writer import Writer

_POLL_S = 0.2

_AGAIN_S = 5.0
"""Between two times that servers which are told by RPC are told again."""

_OLD_NEWS_S = 30.0
"""How long a replica may go on saying that a version failed to load, when it said so before it was told to load it."""


class ModelServers:
    """The servers of a platform. A context manager.

    A rollout is: `publish`, `serve` the old and the new version, `wait_available`, `label`, `wait_label`, and at its
    end `serve` the one that is kept. Each may be done again without harm. Other models are never touched.

    Args:
        shelf: Where versions are.
        writer: Changes what the servers are told.
        replicas: All servers that are told it.
        reloading: Tells them; None where they read the config themselves.
    """

    def __init__(self, shelf: Shelf, writer: Writer, replicas: Replicas, reloading: Reloading | None = None) -> None:
        self._shelf = shelf
        self._writer = writer
        self._replicas = replicas
        self._reloading = reloading
        self._where = writer.store.where
        self._old_news: dict[tuple[str, int], set[str]] = {}

    @property
    def replicas(self) -> tuple[str, ...]:
        """The address of each: ``grpc://host:port``."""
        return self._replicas.addresses

    def connect(self, replica: str, deadline: float = 10.0) -> Client:
        """A client of one replica, with the platform's certificates and token, for the caller to close."""
        return self._replicas.connect(replica, deadline)

    def publish(self, saved_model: Path, model: str, version: int) -> str:
        """Put a SavedModel where the servers find it; none of them loads it yet.

        Returns:
            Where it is.

        Raises:
            ServingError: The version is there with other content.
        """
        return self._shelf.publish(saved_model, model, version)

    def published(self, model: str, version: int) -> bool:
        """Whether a version is there."""
        return self._shelf.has(model, version)

    def configured(self, model: str) -> Configured:
        """What the servers are told of a model.

        Raises:
            ServingError: The config is damaged.
        """
        return configuration.configured(self._writer.store.read().text, model, self._where)

    def serve(self, model: str, versions: Iterable[int]) -> None:
        """Have the servers load exactly these versions of a model; without any, they stop serving it.

        They do it in their own time: `wait_available`.

        Raises:
            ServingError: A version is not published, a label points to one that would go, or the config is damaged.
            ConfigHeld: Another writer does not let go.
        """
        wanted = sorted(set(versions))
        for version in wanted:
            if not self._shelf.has(model, version):
                raise ServingError(
                    f"version {version} of {model} is not published", self._shelf.at(model), "publish it first"
                )
        for version in set(wanted) - set(self.configured(model).versions):
            lags = self.lagging(model, version)
            self._old_news[model, version] = {lag.replica for lag in lags if lag.hopeless}
        self._change(configuration.with_versions(model, wanted, self._shelf.base_path(model), self._where))

    def require(self) -> None:
        """Make sure that every replica answers, before anything is changed for them.

        Raises:
            ServerUnreachable: Some do not; each is named.
        """
        silent = self._replicas.silent()
        if silent:
            raise ServerUnreachable(
                f"model servers do not answer: {_told(silent)}",
                "",
                "start them (`airflow-ml serve` on this machine), or correct the platform's serving target; then retry",
            )

    def lagging(self, model: str, version: int) -> tuple[Lag, ...]:
        """The replicas on which a version is not AVAILABLE now: one look, which takes two seconds at most."""
        return self._replicas.without(model, version)

    def wait_available(self, model: str, version: int, timeout_s: float) -> None:
        """Wait until every replica serves a version.

        Raises:
            ServingError: A replica gave up loading it; named, with what it said.
            ReplicasBehind: Not in time; each is named, with what it said.
        """
        old = self._old_news.pop((model, version), set())
        until = time.monotonic() + _OLD_NEWS_S

        def lags() -> tuple[Lag, ...]:
            found = self.lagging(model, version)
            # A server remembers that a version failed once, until it has read that it shall load it again.
            old.intersection_update(lag.replica for lag in found if lag.hopeless and time.monotonic() < until)
            return tuple(replace(lag, hopeless=False) if lag.replica in old else lag for lag in found)

        self._wait(lags, timeout_s, f"version {version} of {model}")

    def label(self, model: str, label: str, version: int | None, *, way_back: bool = False) -> None:
        """Point a label at a version that every replica serves, or (None) take it away.

        Args:
            model: Name.
            label: ``stable``, ``canary`` or another.
            version: One of those that are served.
            way_back: A replica that does not answer holds nothing up: it may be the very version that we leave that
                ended it. One that answers without the version does, as ever.

        Raises:
            ReplicasBehind: A replica does not serve the version; no label was moved.
            ServingError: The version is not configured, or the config is damaged.
            ConfigHeld: Another writer does not let go.
        """
        edit = configuration.with_label(model, label, version, self._where)
        if version is not None:
            edit(self._writer.store.read().text)
            lags = [lag for lag in self.lagging(model, version) if not (way_back and lag.silent)]
            if lags:
                raise ReplicasBehind(
                    f"version {version} is not AVAILABLE on every replica: {_told(lags)}",
                    f"model {model}",
                    f"label {label!r} was not moved; wait until it is, then retry",
                )
        self._change(edit)

    def wait_label(
        self, model: str, label: str, version: int | None, timeout_s: float, *, way_back: bool = False
    ) -> None:
        """Wait until requests for a label are answered by a version, or (None) by nobody, on every replica.

        Args:
            model: Name.
            label: That was moved.
            version: Where to.
            timeout_s: The longest wait.
            way_back: As for `label`.

        Raises:
            ReplicasBehind: Not in time; each is named, with what it said.
        """

        def lags() -> tuple[Lag, ...]:
            found = self._replicas.not_labelled(model, label, version)
            return tuple(lag for lag in found if not (way_back and lag.silent))

        self._wait(lags, timeout_s, f"label {label!r} of {model}")

    def close(self) -> None:
        """Let the connections go."""
        self._replicas.close()

    def _change(self, edit: Edit) -> None:
        if self._reloading is None:
            self._writer.change(edit)
            return
        self._reloading.require_record(self._writer.store.read().text)
        self._writer.change(edit, self._reloading.send)

    def _send_again(self) -> None:
        """For replicas that were started again: who is told by RPC remembers nothing."""
        if self._reloading is not None:
            with suppress(ServingError):  # what a replica lacks is told by who waits for it
                self._change(configuration.unchanged(self._where))

    def _wait(self, look: Callable[[], tuple[Lag, ...]], timeout_s: float, what: str) -> None:
        end = time.monotonic() + timeout_s
        again = time.monotonic() + _AGAIN_S
        while lags := look():
            hopeless = [lag for lag in lags if lag.hopeless]
            if hopeless:
                raise ServingError(
                    f"given up: {_told(hopeless)}",
                    what,
                    "export the model again; the version before it stays served",
                )
            if time.monotonic() >= end:
                raise ReplicasBehind(
                    f"not on every replica after {timeout_s:g} s: {_told(lags)}",
                    what,
                    f"do they follow {self._where}? look at their logs, or wait longer; then retry",
                )
            if time.monotonic() >= again:
                self._send_again()
                again = time.monotonic() + _AGAIN_S
            time.sleep(_POLL_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _told(lags: Iterable[Lag]) -> str:
    return "; ".join(f"{lag.replica}: {lag.says}" for lag in lags)
