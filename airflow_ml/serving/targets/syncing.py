"""Keeping a server's disk at what the config names: ``airflow-ml sync-models``, beside each server.

One round: fetch the versions that the config names and that are not there; then put the config where the server polls
it; in the next round, remove the versions that no config named since. So a server never reads of a version that is
not there, never misses a model's folder (which would stop it from looking at all others), and never loses files that
it is about to read.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from airflow_ml.lifecycle.errors import AirflowMLError, ServingError
from airflow_ml.serving.targets.buckets import S3Shelf
from airflow_ml.serving.targets.configuration import parsed
from airflow_ml.storage import storage_error, write_atomically

log = logging.getLogger(__name__)

_NUMBER = re.compile(r"^[0-9]+$")
_OURS = ".fetched"
"""Folder of a model in which there is an empty file for each version that we brought: only those are removed."""


@dataclass
class Sync:
    """A folder that follows a config.

    Attributes:
        shelf: Where versions come from.
        folder: Where they go to: the ``seen_as`` of the platform's serving target.
        config: What to follow, as it is mounted or lies on a shared disk.
        copy: Where the server polls it; None where it polls `config` itself.
    """

    shelf: S3Shelf
    folder: Path
    config: Path
    copy: Path | None
    _before: set[tuple[str, int]] = field(default_factory=set)
    _began: bool = False

    def round(self) -> list[str]:
        """Do it once.

        Returns:
            What is missing, for people: versions that are named and cannot be had. The config is copied all the same:
            what is wrong with one model must not hold up the others.

        Raises:
            AirflowMLError: The config cannot be read, or the disk not be written; nothing was changed.
        """
        text = self._text()
        wanted, problems = self._wanted(text)
        with _disk(self.folder):
            for model, version in sorted(wanted):
                problems += self._fetched(model, version)
            if self.copy is not None and (not self.copy.exists() or self.copy.read_text(encoding="utf-8") != text):
                write_atomically(self.copy, text)
                log.info("%s is the new config", self.copy)
            if self._began:
                self._remove_all_but(wanted | self._before)
        self._before, self._began = wanted, True
        return problems

    def follow(self, every_s: float, told_to_stop: Callable[[float], bool]) -> None:
        """Do it again and again until told to stop; what goes wrong is said once, and tried again.

        Args:
            every_s: Pause between rounds.
            told_to_stop: Waits for that long, or until it is told.
        """
        said = ""
        while True:
            try:
                complaint = "; ".join(self.round())
            except AirflowMLError as error:
                complaint = str(error)
            if complaint and complaint != said:
                log.error("%s", complaint)
            said = complaint
            if told_to_stop(every_s):
                return

    def _text(self) -> str:
        try:
            return self.config.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ServingError(
                f"the config cannot be read: {getattr(error, 'strerror', None) or error}",
                str(self.config),
                "is the ConfigMap there and mounted, with this key?",
            ) from error

    def _wanted(self, text: str) -> tuple[set[tuple[str, int]], list[str]]:
        """Versions of the models whose folder is ours to fill, and what is odd about that."""
        entries = parsed(text, str(self.config)).model_config_list.config
        ours = [e for e in entries if "/" not in e.name and Path(e.base_path) == self.folder / e.name]
        odd = []
        if entries and not ours:
            where = f"no model of {self.config} has its base path in {self.folder}"
            odd.append(f"{where}: is that the `seen_as` of the platform's serving target?")
        found = {(e.name, int(version)) for e in ours for version in e.model_version_policy.specific.versions}
        return found, odd

    def _fetched(self, model: str, version: int) -> list[str]:
        (self.folder / model).mkdir(parents=True, exist_ok=True)
        if (self.folder / model / str(version)).is_dir():
            return []
        mark = self.folder / model / _OURS / str(version)
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
        try:
            if not self.shelf.fetch(model, version, self.folder):
                return [f"version {version} of {model} is not published in {self.shelf.at(model)}"]
        except ServingError as error:
            return [str(error)]
        log.info("version %d of %s is here", version, model)
        return []

    def _remove_all_but(self, named: set[tuple[str, int]]) -> None:
        for mark in sorted(self.folder.glob(f"*/{_OURS}/*")):
            model, version = mark.parents[1].name, mark.name
            if not _NUMBER.match(version) or (model, int(version)) in named:
                continue
            gone = mark.parents[1] / f".removed-{version}"
            target = mark.parents[1] / version
            if target.exists():
                # under another name first: half a version is none
                shutil.rmtree(gone, ignore_errors=True)
                target.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            mark.unlink()
            log.info("version %s of %s is named no more, and removed", version, model)


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Errors of the disk, as a person can use them."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, Path(error.filename or folder)) from error
