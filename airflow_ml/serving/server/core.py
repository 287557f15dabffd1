"""The heart of the server: which versions are in memory, and which one answers a request.

One thread looks at config and folders and decides (:mod:`.versions`); loads and unloads run in threads of their own, so
that a slow or broken version holds up nobody else. A request borrows a version for as long as it runs; a version is
freed when its last borrower is done. A version that is not quick has threads of its own, which its requests fill before
they would fill anybody else's.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from airflow_ml.serving.server import versions
from airflow_ml.serving.server.config import ServedModel, models_of
from airflow_ml.serving.server.flags import Flags
from airflow_ml.serving.server.loading import Version, VersionStatus, load
from airflow_ml.serving.server.loan import Loan
from airflow_ml.serving.server.metrics import Metrics
from airflow_ml.serving.server.status import Code, StatusError, invalid
from airflow_ml.serving.server.versions import State

log = logging.getLogger(__name__)

_LOADERS = 2


class NotAvailable(StatusError):
    """A new configuration is in force, but not all of its new models are available."""


class Core:
    """The models of one server.

    Args:
        flags: The server's flags.

    Attributes:
        metrics: What it counts.
    """

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self.metrics = Metrics()
        self._configured = False
        self._changed = threading.Condition()
        self._reloading = threading.Lock()
        self._models: dict[str, ServedModel] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._versions: dict[str, dict[int, Version]] = {}
        self._aspired: dict[str, set[int]] = {}
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
            NotAvailable: the config is in force, but a new model did not become available.
            StatusError: the config is refused, and the old one stays.
        """
        with self._reloading:
            if not config.WhichOneof("config"):
                if self._configured:
                    raise StatusError(
                        Code.FAILED_PRECONDITION,
                        "Cannot transition to requested config. It is only legal to transition from one "
                        "ModelConfigList to another.",
                    )
                log.info("taking no action for empty config")
                return
            models = models_of(config)
            labels = self._checked_labels(models)
            with self._changed:
                new = [name for name in models if name not in self._models]
                self._models, self._labels, self._configured = models, labels, True
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

        def available(name: str) -> bool:
            return any(v.status.state is State.AVAILABLE for v in self._versions.get(name, {}).values())

        with self._changed:
            done = self._changed.wait_for(lambda: self._closing.is_set() or all(map(settled, names)), timeout)
            missing = [name for name in names if not available(name)]
            failed = [
                f"{{{{name: {name} version: {number}}} due to error: {version.status.code.name}: "
                f"{version.status.message}}}, "
                for name in missing
                for number, version in self._versions.get(name, {}).items()
            ]
        if not done:
            raise NotAvailable(Code.DEADLINE_EXCEEDED, f"models did not load in time: {', '.join(missing)}")
        if missing:
            raise NotAvailable(Code.UNKNOWN, f"{len(missing)} model(s) did not become available: {{{''.join(failed)}}}")

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
            self._aspired = {name: set(numbers) for name, numbers in aspired.items()}
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
        failed = [number for number, version in live.items() if version.status.code is not Code.OK]
        for number in versions.to_forget(aspired, states, failed):
            self._history.setdefault(name, {})[number] = live.pop(number).status
            del states[number]
        for number in versions.to_load(aspired, states):
            version = Version(Path(self._models[name].base_path) / aspired[number])
            live[number] = version
            self._loaders.submit(self._load, name, number, version)
        for number in versions.to_unload(aspired, states):
            self._set(name, number, live[number], VersionStatus(State.UNLOADING))
            threading.Thread(target=self._unload, args=(name, number, live[number]), daemon=True).start()

    def _load(self, name: str, number: int, version: Version, attempt: int = 1) -> None:
        attempts = max(self._flags.max_num_load_retries, 0) + 1
        self._set(name, number, version, VersionStatus(State.LOADING))
        try:
            servable = load(version.path, number, self.metrics, self._flags)
        except StatusError as problem:
            log.error("loading %s version %d failed (attempt %d of %d): %s", name, number, attempt, attempts, problem)
            if attempt < attempts and version.path.is_dir() and not self._closing.is_set():
                # the loader goes on with other versions meanwhile
                again = threading.Timer(
                    self._flags.load_retry_interval_micros / 1e6, self._retry, (name, number, version, attempt + 1)
                )
                again.daemon = True
                again.start()
                return
            self._set(name, number, version, VersionStatus(State.END, problem.code, problem.message))
            return
        with self._changed:
            version.servable = servable
            self._set(name, number, version, VersionStatus(State.AVAILABLE))
        log.info("successfully loaded servable version {name: %s version: %d}", name, number)

    def _retry(self, name: str, number: int, version: Version, attempt: int) -> None:
        with self._changed:
            wanted = number in self._aspired.get(name, ())
        if self._closing.is_set():
            return
        if wanted:
            self._loaders.submit(self._load, name, number, version, attempt)
        else:  # it may be wanted again, so this is no failure
            self._set(name, number, version, VersionStatus(State.END))

    def _unload(self, name: str, number: int, version: Version) -> None:
        with self._changed:
            self._changed.wait_for(lambda: version.borrowers == 0)
            servable, version.servable = version.servable, None
        if servable is not None:
            servable.close()
        version.pool.shutdown(wait=False)
        self._set(name, number, version, VersionStatus(State.END))
        log.info("done unloading servable version {name: %s version: %d}", name, number)

    def _set(self, name: str, number: int, version: Version, status: VersionStatus) -> None:
        with self._changed:
            version.status = replace(status)
            self._changed.notify_all()

    def _state(self, name: str, number: int) -> State | None:
        version = self._versions.get(name, {}).get(number)
        return version.status.state if version else None

    # --- requests -----------------------------------------------------------------------------------------------------

    def lend(self, spec: Any) -> Loan:
        """The version that answers a ``ModelSpec``, held until the loan is given back.

        Raises:
            StatusError: no such model, version or label.
        """
        with self._changed:
            version = self._find(spec)
            version.borrowers += 1
            assert version.servable is not None
            return Loan(version.servable, version.pool, lambda: self._back(version))

    def _back(self, version: Version) -> None:
        with self._changed:
            version.borrowers -= 1
            if not version.borrowers:
                self._changed.notify_all()

    def _find(self, spec: Any) -> Version:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        wanted = self.version_of(spec)
        live = self._versions.get(spec.name, {})
        if wanted is None:
            wanted = max((n for n, v in live.items() if v.status.state is State.AVAILABLE), default=None)
        version = None if wanted is None else live.get(wanted)
        if version is None or version.status.state is not State.AVAILABLE:
            asked = f"Latest({spec.name})" if wanted is None else f"Specific({spec.name}, {wanted})"
            raise StatusError(Code.NOT_FOUND, f"Servable not found for request: {asked}")
        return version

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
        """The versions of a model, newest first, with those that are gone; of one version if given.

        A label is not heeded: nor does TF Serving here.

        Raises:
            StatusError: an unknown model or version.
        """
        wanted = int(spec.version.value) if spec.HasField("version") else None
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
