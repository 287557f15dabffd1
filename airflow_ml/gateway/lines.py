"""The release record as the gateway needs it, and a watch on it: a change holds in two seconds, without a restart."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from airflow_ml.lifecycle.errors import AirflowMLError, BaseError
from airflow_ml.lifecycle.releases import Release
from airflow_ml.lifecycle.routing import Routing
from airflow_ml.registry import champions, routes
from airflow_ml.serving.deployment import CONFIG_NAME, ModelConfigFile
from airflow_ml.spec import Platform

log = logging.getLogger(__name__)

POLL_S = 0.5
"""Looking costs three calls of ``stat``."""


@dataclass(frozen=True)
class Lines:
    """Who can be asked.

    Attributes:
        routing: What holds.
        releases: Each version that it names, and `previous`.
        labels: Version → its label in the model server.
        previous: The champion before the stable one, or None.
    """

    routing: Routing
    releases: Mapping[int, Release]
    labels: Mapping[int, str]
    previous: int | None

    @cached_property
    def features(self) -> frozenset[str]:
        """Every feature that some version takes."""
        return frozenset(name for release in self.releases.values() for name in release.signature)

    def before(self, version: int) -> int | None:
        """Who answers when a version does not: ``stable``, or the champion before it."""
        return self.routing.stable if version != self.routing.stable else self.previous


def read_lines(platform: Platform, model_name: str) -> tuple[Lines | None, AirflowMLError | None]:
    """What holds now, and why it is less than what the record says.

    A routing that cannot be read, or that names what did not pass its gates, routes nobody: all traffic is then on the
    champion. None without one that can be trusted.
    """
    problem: AirflowMLError | None = None
    try:
        reigns = champions.history(platform, model_name)
    except AirflowMLError as error:
        return None, error
    if not reigns:
        return None, None
    wanted = Routing(stable=reigns[0].version)
    try:
        wanted = routes.routing(platform, model_name) or wanted
        releases = _passed(platform, model_name, wanted)
    except AirflowMLError as error:
        problem = error
        wanted = Routing(stable=reigns[0].version)
        try:
            releases = _passed(platform, model_name, wanted)
        except AirflowMLError as worse:
            return None, worse
    previous = next((reign.previous for reign in reigns if reign.version == wanted.stable), None)
    if previous is not None:
        try:
            releases |= {previous: _release(platform, model_name, previous)}
        except AirflowMLError as error:
            previous, problem = None, problem or error
    labels: dict[int, str] = {}
    try:
        for label, version in ModelConfigFile(Path(platform.config_folder)).labels(model_name).items():
            labels.setdefault(version, label)
    except (AirflowMLError, OSError) as error:
        # A gateway may stand on another machine than the server's folder; the label is a note in the log.
        log.debug("no labels: %s", error)
    return Lines(wanted, releases, labels, previous), problem


def _passed(platform: Platform, model_name: str, routing: Routing) -> dict[int, Release]:
    return {version: _release(platform, model_name, version) for version in routing.versions}


def _release(platform: Platform, model_name: str, version: int) -> Release:
    release = champions.release_of(platform, model_name, version)
    release.require_passed()
    return release


class Watch:
    """Reads the record again when one of its files changed.

    Args:
        platform: Says where the record is.
        model_name: Whose.

    Attributes:
        lines: What holds; None while there is no champion.
    """

    def __init__(self, platform: Platform, model_name: str) -> None:
        self._platform = platform
        self._model = model_name
        folder = routes.path_of(platform, model_name).parent
        self._files = (
            folder / "champions.json",
            routes.path_of(platform, model_name),
            Path(platform.config_folder) / CONFIG_NAME,
        )
        self._seen: object = None
        self.lines: Lines | None = None

    async def look(self) -> tuple[bool, AirflowMLError | None]:
        """Read what changed since the last look.

        Returns:
            Whether something was read, and what is wrong with it.
        """
        now = await asyncio.to_thread(self._marks)
        if now == self._seen:
            return False, None
        try:
            self.lines, problem = await asyncio.to_thread(read_lines, self._platform, self._model)
        except OSError as error:
            problem = BaseError(f"cannot be read: {error}", remedy="give this user read permission")
        # What was not right may be set right where these files do not show it: a gate report that comes back.
        self._seen = None if problem else now
        return True, problem

    def _marks(self) -> tuple[object, ...]:
        return tuple(_mark(path) for path in self._files)


def _mark(path: Path) -> object:
    try:
        found = os.stat(path)
    except OSError:
        return None
    # Records appear by renaming: another file has another number, even within one tick of the clock.
    return found.st_ino, found.st_mtime_ns, found.st_size
