"""Putting a version where a model server finds it: folders and the config file.

A serving base is one folder:

    <base>/models.config            what the server is told to serve; it polls this file
    <base>/<model>/<version>/       SavedModels

Several jobs may release into one base. Each change is read–modify–write under a lock, and each appears by one rename,
so that the server never reads half of anything and a model of somebody else is never touched.

Source: https://www.tensorflow.org/tfx/serving/serving_config
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.client import Client
from airflow_ml.serving.errors import ModelNotServed, RequestRefused, ServerUnreachable, ServingTimeout
from airflow_ml.serving.files import fsync, fsync_tree, tree_sha256
from airflow_ml.storage import storage_error

CONFIG_NAME = "models.config"

_POLL = 0.2


def publish(saved_model: Path, base: Path, model: str, version: int) -> Path:
    """Put a SavedModel into the serving base as ``<base>/<model>/<version>``.

    It is copied under a name that is not a number, which a server does not look at, and renamed when it is complete and
    on disk. Publishing the same version again is no change; a killed publish leaves nothing that a server would load.

    Args:
        saved_model: The folder to copy.
        base: The serving base.
        model: Name.
        version: Registry version.

    Returns:
        The folder of the version.

    Raises:
        ServingError: the version is there with other content.
    """
    folder = base / model
    target = folder / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".publish.lock"):
        wanted = tree_sha256(saved_model)
        if target.exists():
            if tree_sha256(target) != wanted:
                raise ServingError(
                    f"version {version} of {model} is published with other content",
                    str(target),
                    "a version never changes: register the model anew, or remove the folder if it is not a release",
                )
            return target
        staging = folder / f".staging-{version}"
        shutil.rmtree(staging, ignore_errors=True)
        shutil.copytree(saved_model, staging)
        if tree_sha256(staging) != wanted:
            raise ServingError("the copy differs from its source", str(staging), "check the disk and release again")
        fsync_tree(staging)
        staging.rename(target)
        fsync(folder)
    return target


class ModelConfigFile:
    """``models.config`` of a serving base: which versions of which model are loaded, and their labels.

    TF Serving refuses a label of a version that is not AVAILABLE. So a rollout is two writes with a wait between:
    :meth:`ensure_versions`, :func:`wait_available`, :meth:`set_label`. This class refuses what the server would refuse
    for ever.

    Args:
        base: The serving base.
    """

    def __init__(self, base: Path) -> None:
        self.base = base.absolute()
        self.path = self.base / CONFIG_NAME

    def create(self) -> Path:
        """Make sure that there is a file, which a server needs to start; an empty one serves nothing."""
        with self._change():
            pass
        return self.path

    def models(self) -> list[str]:
        """The models that are served."""
        return [entry.name for entry in self._read().model_config_list.config]

    def versions(self, model: str) -> list[int]:
        """The versions that the server is told to load; empty if the model is not served."""
        entry = _entry(self._read(), model)
        return sorted(entry.model_version_policy.specific.versions) if entry else []

    def labels(self, model: str) -> dict[str, int]:
        """Label → version."""
        entry = _entry(self._read(), model)
        return dict(entry.version_labels) if entry else {}

    def ensure_versions(self, model: str, versions: Iterable[int]) -> None:
        """Serve exactly these versions of ``model``.

        Raises:
            ServingError: a version is not published, or a label points to one that would go.
        """
        wanted = sorted(set(versions))
        for version in wanted:
            if not (self.base / model / str(version)).is_dir():
                raise ServingError(
                    f"version {version} of {model} is not published", str(self.base / model), "publish it first"
                )
        if not wanted:
            raise ServingError(f"no version of {model} given", str(self.path), "use remove() to stop serving the model")
        with self._change() as config:
            entry = _entry(config, model) or config.model_config_list.config.add(name=model)
            lost = {label: v for label, v in entry.version_labels.items() if v not in wanted}
            if lost:
                raise ServingError(
                    f"labels of {model} point to versions that would be unloaded: {lost}",
                    str(self.path),
                    "move or remove the labels first",
                )
            entry.base_path = str(self.base / model)
            entry.model_platform = "tensorflow"
            entry.model_version_policy.specific.versions[:] = wanted

    def set_label(self, model: str, label: str, version: int) -> None:
        """Point ``label`` at a version that is AVAILABLE (:func:`wait_available`).

        Raises:
            ServingError: the version is not among those that are served.
        """
        with self._change() as config:
            entry = _entry(config, model)
            if entry is None or version not in entry.model_version_policy.specific.versions:
                raise ServingError(
                    f"version {version} of {model} is not served, so it cannot be {label!r}",
                    str(self.path),
                    "call ensure_versions, then wait_available, then set_label",
                )
            entry.version_labels[label] = version

    def remove(self, model: str) -> None:
        """Stop serving ``model``; its folders stay. No change if it is not served."""
        with self._change() as config:
            kept = [entry for entry in config.model_config_list.config if entry.name != model]
            del config.model_config_list.config[:]
            config.model_config_list.config.extend(kept)

    def _read(self) -> Any:
        from google.protobuf import text_format

        from airflow_ml.serving.protos.messages import ModelServerConfig

        try:
            return text_format.Parse(self.path.read_text(), ModelServerConfig())
        except FileNotFoundError:
            return ModelServerConfig()
        except text_format.ParseError as error:
            raise ServingError(
                f"not a model server config: {error}", str(self.path), "repair the file by hand; nothing was changed"
            ) from error

    @contextmanager
    def _change(self) -> Iterator[Any]:
        from google.protobuf import text_format

        with _folder(self.base), _locked(self.base / f".{CONFIG_NAME}.lock"):
            config = self._read()
            yield config
            # an empty message prints as nothing, which a server takes for "no config": say that the list is empty
            text = (
                text_format.MessageToString(config) if config.model_config_list.config else "model_config_list {\n}\n"
            )
            if self.path.exists() and self.path.read_text() == text:
                return
            partial = self.path.with_name(f".{CONFIG_NAME}.partial")
            partial.write_text(text)
            fsync(partial)
            partial.rename(self.path)
            fsync(self.base)


def wait_available(client: Client, model: str, version: int, timeout: float) -> None:
    """Wait until the server serves a version.

    Args:
        client: Of the server.
        model: Name.
        version: Which.
        timeout: The longest wait, in seconds.

    Raises:
        ServingError: the server could not load it.
        ServingTimeout: it is not available in time; the last state is in the message.
    """

    def available() -> str | None:
        (status,) = client.status(model, version)
        if status.failed:
            raise ServingError(
                f"the server could not load it: {status.error_code} {status.error_message}",
                client.where(model, version),
                "export the model again; the version before it stays served",
            )
        return None if status.state == "AVAILABLE" else status.state

    _wait(available, timeout, client.where(model, version))


def wait_label(client: Client, model: str, label: str, version: int, timeout: float) -> None:
    """Wait until requests for ``label`` are answered by ``version``.

    Raises:
        ServingTimeout: they are not in time.
    """

    def moved() -> str | None:
        answering = client.metadata(model, label=label).version
        return None if answering == version else f"label {label!r} is still version {answering}"

    _wait(moved, timeout, client.where(model, version))


def _wait(check: Callable[[], str | None], timeout: float, where: str) -> None:
    """Call ``check`` until it has nothing to complain of. A server that is still reading its config is no failure."""
    end = time.monotonic() + timeout
    while True:
        try:
            complaint = check()
        except (ModelNotServed, RequestRefused, ServerUnreachable, ServingTimeout) as error:
            complaint = error.what
        if complaint is None:
            return
        if time.monotonic() >= end:
            raise ServingTimeout(
                f"not there after {timeout:g} s: {complaint}", where, "look at the server's log, or wait longer"
            )
        time.sleep(_POLL)


def _entry(config: Any, model: str) -> Any | None:
    return next((entry for entry in config.model_config_list.config if entry.name == model), None)


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make a folder to write in; the operating system's errors in there are told as a person can use them."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise storage_error(error, Path(error.filename or path)) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file lock; it ends with the process, however that ends."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
