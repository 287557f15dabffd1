"""Where versions are kept for the servers to find: a folder that they see."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.files import fsync_tree, tree_sha256
from airflow_ml.storage import fsync, locked


class Shelf(Protocol):
    """Versions of models."""

    def publish(self, saved_model: Path, model: str, version: int) -> str:
        """Put a SavedModel there, all of it or nothing; the same again is no change.

        Returns:
            Where it is.

        Raises:
            ServingError: The version is there with other content.
        """

    def has(self, model: str, version: int) -> bool:
        """Whether it is published."""

    def base_path(self, model: str) -> str:
        """Folder of a model's versions, as the servers see it."""

    def at(self, model: str) -> str:
        """Where a model's versions are, for messages."""


class FolderShelf:
    """``<folder>/<model>/<version>`` on a disk that the servers see.

    Args:
        folder: As this process sees it.
        seen_as: As the servers do.
    """

    def __init__(self, folder: Path, seen_as: str | None = None) -> None:
        self._folder = folder.absolute()
        self._seen_as = seen_as or str(self._folder)

    def publish(self, saved_model: Path, model: str, version: int) -> str:
        """Copy it."""
        return str(publish(saved_model, self._folder, model, version))

    def has(self, model: str, version: int) -> bool:
        """Whether the folder is there: it appears when it is complete."""
        return (self._folder / model / str(version)).is_dir()

    def base_path(self, model: str) -> str:
        """The servers' folder."""
        return f"{self._seen_as}/{model}"

    def at(self, model: str) -> str:
        """Our folder."""
        return str(self._folder / model)


def publish(saved_model: Path, base: Path, model: str, version: int) -> Path:
    """Put a SavedModel into a folder that servers read, as ``<base>/<model>/<version>``.

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
    with locked(folder / ".publish.lock"):
        wanted = tree_sha256(saved_model)
        if target.exists():
            if tree_sha256(target) != wanted:
                raise other_content(model, version, str(target))
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


def other_content(model: str, version: int, where: str) -> ServingError:
    """A version that was published before as something else."""
    return ServingError(
        f"version {version} of {model} is published with other content",
        where,
        "a version never changes: register the model anew, or remove it there if it is not a release",
    )
