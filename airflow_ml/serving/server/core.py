"""The heart of the server: which versions are in memory, and which one answers a request.

One thread looks at config and folders and decides (:mod:`.versions`); loads and unloads run in threads of their own, so
that a slow or broken version holds up nobody else. A request borrows a version for as long as it runs; a version is
freed when its last borrower is done.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from airflow_ml.serving.server import versions
from airflow_ml.serving.server.config import ServedModel, models_of
from airflow_ml.serving.server.flags import Flags
from airflow_ml.serving.server.servable import Servable
from airflow_ml.serving.server.status import Code, StatusError, invalid, of_exception
from airflow_ml.serving.server.versions import State

log = logging.getLogger(__name__)

_LOADERS = 2


@dataclass(frozen=True)
class VersionStatus:
    """Where a version stands, and what went wrong."""

    state: State
    code: Code = Code.OK
    message: str = ""


class _Version:
    """A version that is being loaded, served or unloaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status = VersionStatus(State.START)
        self.servable: Servable | None = None
        self.borrowers = 0


class Core:
    """The models of one server.

    Args:
        flags: The server's flags.
    """

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._changed = threading.Condition()
        self._reloading = threading.Lock()
        self._models: dict[str, ServedModel] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._versions: dict[str, dict[int, _Version]] = {}
        self._empty: set[str] = set()
        self._history: dict[str, dict[int, VersionStatus]] = {}
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="load")
        self._closing = threading.Event()
        self._poller: threading.Thread | None = None

    # --- configuration ------------------------------------------------------------------------------------------------

    def reload(self, config: Any, timeout: float | None = None) -> None:
        """Replace the configuration, and wait until each *new* model has a version (or has failed to).

        New versions of known models load in the background.

        Args:
            config: ``ModelServerConfig``, whole: what it leaves out is unloaded.
            timeout: The longest wait for new models, in seconds.

        Raises:
            StatusError: the config is refused and the old one stays; or a new model did not become available.
        """
        with self._reloading:
            models = models_of(config)
            if not config.WhichOneof("config"):
                log.info("taking no action for empty config")
                return
            labels = self._checked_labels(models)
            with self._changed:
                new = [name for name in models if name not in self._models]
                self._models, self._labels = models, labels
            self.poll()
            self._wait_for(new, timeout)

    def _checked_labels(self, models: Mapping[str, ServedModel]) -> dict[str, dict[str, int]]:
        with self._changed:
            for model in models.values():
                for label, version in model.labels.items():
                    current = self._labels.get(model.name, {}).get(label)
                    excused = self._flags.allow_version_labels_for_unavailable_models and current in (None, version)
                    if not excused and self._state(model.name, version) is not State.AVAILABLE:
                        raise StatusError(
                            Code.FAILED_PRECONDITION,
                            f"Request to assign label to version {version} of model {model.name}, "
                            "which is not currently available for inference",
                        )
        return {model.name: dict(model.labels) for model in models.values()}

    def _wait_for(self, names: list[str], timeout: float | None) -> None:
        def settled(name: str) -> bool:
            states = [v.status.state for v in self._versions.get(name, {}).values()]
            return State.AVAILABLE in states or bool(states and all(state is State.END for state in states))

        with self._changed:
            done = self._changed.wait_for(lambda: self._closing.is_set() or all(map(settled, names)), timeout)
            missing = [
                name
                for name in names
                if not any(v.status.state is State.AVAILABLE for v in self._versions.get(name, {}).values())
            ]
        if not done:
            raise StatusError(Code.DEADLINE_EXCEEDED, f"models did not load in time: {', '.join(missing)}")
        if missing:
            raise StatusError(Code.UNKNOWN, f"Some models did not become available: {{{', '.join(missing)}}}")

    # --- versions -----------------------------------------------------------------------------------------------------

    def start_polling(self) -> None:
        """Look at the folders every ``file_system_poll_wait_seconds``, until :meth:`close`."""
        if self._flags.file_system_poll_wait_seconds <= 0:
            return
        self._poller = threading.Thread(target=self._poll_forever, name="poll", daemon=True)
        self._poller.start()

    def _poll_forever(self) -> None:
        while not self._closing.wait(self._flags.file_system_poll_wait_seconds):
            try:
                self.poll()
            except Exception:
                log.exception("polling failed")

    def poll(self) -> None:
        """Look at the folders once, and start what follows.

        A base path that is missing stops the whole look, for all models: so does TF Serving.
        """
        with self._changed:
            aspired: dict[str, dict[int, str]] = {}
            for model in self._models.values():
                try:
                    names = [entry.name for entry in os.scandir(model.base_path) if entry.is_dir()]
                except OSError as error:
                    log.error("could not find base path %s of %s: %s", model.base_path, model.name, error.strerror)
                    return
                aspired[model.name] = model.policy.aspired(names)
                self._warn_of_nothing(model, aspired[model.name])
            for name in {*self._versions, *aspired}:
                self._advance(name, aspired.get(name, {}))
            self._changed.notify_all()

    def _warn_of_nothing(self, model: ServedModel, aspired: Mapping[int, str]) -> None:
        if aspired:
            self._empty.discard(model.name)
        elif model.name not in self._empty:  # once, not every second
            self._empty.add(model.name)
            log.warning("no versions of servable %s to serve under base path %s", model.name, model.base_path)

    def _advance(self, name: str, aspired: Mapping[int, str]) -> None:
        live = self._versions.setdefault(name, {})
        states = {number: version.status.state for number, version in live.items()}
        for number in versions.to_forget(aspired, states):
            self._history.setdefault(name, {})[number] = live.pop(number).status
        for number in versions.to_load(aspired, states):
            version = _Version(Path(self._models[name].base_path) / aspired[number])
            live[number] = version
            self._loaders.submit(self._load, name, number, version)
        for number in versions.to_unload(aspired, states):
            self._set(name, number, live[number], VersionStatus(State.UNLOADING))
            threading.Thread(target=self._unload, args=(name, number, live[number]), daemon=True).start()

    def _load(self, name: str, number: int, version: _Version) -> None:
        attempts = max(self._flags.max_num_load_retries, 0) + 1
        self._set(name, number, version, VersionStatus(State.LOADING))
        for attempt in range(1, attempts + 1):
            try:
                servable = Servable(version.path, self._flags.enable_model_warmup)
            except Exception as error:
                problem = of_exception(error)
                log.error(
                    "loading %s version %d failed (attempt %d of %d): %s", name, number, attempt, attempts, problem
                )
            else:
                with self._changed:
                    version.servable = servable
                    self._set(name, number, version, VersionStatus(State.AVAILABLE))
                log.info("successfully loaded servable version {name: %s version: %d}", name, number)
                return
            pause = self._flags.load_retry_interval_micros / 1e6
            if attempt < attempts and (self._closing.wait(pause) or not version.path.is_dir()):
                break
        self._set(name, number, version, VersionStatus(State.END, problem.code, problem.message))

    def _unload(self, name: str, number: int, version: _Version) -> None:
        with self._changed:
            self._changed.wait_for(lambda: version.borrowers == 0)
            servable, version.servable = version.servable, None
        if servable is not None:
            servable.close()
        self._set(name, number, version, VersionStatus(State.END))
        log.info("done unloading servable version {name: %s version: %d}", name, number)

    def _set(self, name: str, number: int, version: _Version, status: VersionStatus) -> None:
        with self._changed:
            version.status = replace(status)
            self._changed.notify_all()

    def _state(self, name: str, number: int) -> State | None:
        version = self._versions.get(name, {}).get(number)
        return version.status.state if version else None

    # --- requests -----------------------------------------------------------------------------------------------------

    @contextmanager
    def borrow(self, spec: Any) -> Iterator[tuple[int, Servable]]:
        """The version that answers a ``ModelSpec``, held while the request runs.

        Raises:
            StatusError: no such model, version or label.
        """
        with self._changed:
            number, version = self._find(spec)
            version.borrowers += 1
            servable = version.servable
        assert servable is not None
        try:
            yield number, servable
        finally:
            with self._changed:
                version.borrowers -= 1
                if not version.borrowers:
                    self._changed.notify_all()

    def _find(self, spec: Any) -> tuple[int, _Version]:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        wanted = self.version_of(spec)
        available = {
            number: version
            for number, version in self._versions.get(spec.name, {}).items()
            if version.status.state is State.AVAILABLE
        }
        if wanted is None and available:
            wanted = max(available)
        if wanted is None or wanted not in available:
            asked = f"Latest({spec.name})" if wanted is None else f"Specific({spec.name}, {wanted})"
            raise StatusError(Code.NOT_FOUND, f"Servable not found for request: {asked}")
        return wanted, available[wanted]

    def version_of(self, spec: Any) -> int | None:
        """The version that a ``ModelSpec`` names by number or label; ``None`` if it names none.

        Raises:
            StatusError: an unknown label.
        """
        choice = spec.WhichOneof("version_choice")
        if choice == "version":
            return int(spec.version.value)
        if choice != "version_label":
            return None
        with self._changed:
            number = self._labels.get(spec.name, {}).get(spec.version_label)
        if number is None:
            raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        return number

    def statuses(self, spec: Any) -> list[tuple[int, VersionStatus]]:
        """The versions of a model, newest first, with those that are gone.

        Raises:
            StatusError: an unknown model, version or label.
        """
        wanted = self.version_of(spec)
        with self._changed:
            known = dict(self._history.get(spec.name, {}))
            known.update({number: version.status for number, version in self._versions.get(spec.name, {}).items()})
        if wanted is not None:
            if wanted not in known:
                raise StatusError(Code.NOT_FOUND, f"Could not find version {wanted} of model {spec.name}")
            known = {wanted: known[wanted]}
        if not known:
            raise StatusError(Code.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        return sorted(known.items(), reverse=True)

    def close(self) -> None:
        """Stop polling and loading, and free the models."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        if self._poller is not None:
            self._poller.join()
        self._loaders.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + 5
        with self._changed:
            live = [version for model in self._versions.values() for version in model.values()]
            self._changed.wait_for(lambda: not any(v.borrowers for v in live), max(deadline - time.monotonic(), 0))
            idle = [v.servable for v in live if v.servable is not None and not v.borrowers]
        for servable in idle:
            servable.close()
