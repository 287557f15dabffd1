"""Which tests run side by side: those of different folders. Within one they share engines, models and servers."""

import fcntl
import os
from collections.abc import Generator
from pathlib import Path

import pytest

HERE = Path(__file__).parent

LONGEST = ("alone", "system", "kubernetes", "dags", "unit/training", "unit/data", "unit/rollout", "contract")
"""Folders that take minutes. They begin first, so that no worker is left with one of them at the end."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Put the longest folders first; the order within a folder stays."""

    def place(item) -> int:
        folder = item.path.parent.relative_to(HERE).as_posix()
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each folder to one worker; nothing changes without `pytest -n`."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("::")[0].rpartition("/")[0]

    return ByFolder(config, log)


class Machine:
    """A worker's claim to the machine: shared by tests that bear company, whole for those marked `alone`."""

    def __init__(self) -> None:
        self._room, self._door = (os.open(path, os.O_RDONLY) for path in (__file__, HERE.parent / "pyproject.toml"))
        self._alone = False

    def take(self, alone: bool) -> None:
        """Wait for it; the next of several that want to be alone has it already."""
        if self._alone:
            return
        mode = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        # Two locks: who waits for the whole keeps the door, so that the others do not take turns for ever.
        fcntl.flock(self._door, mode)
        fcntl.flock(self._room, mode)
        fcntl.flock(self._door, fcntl.LOCK_UN)
        self._alone = alone

    def leave(self, next_alone: bool) -> None:
        """Let others have it, unless the next test here wants it whole, too."""
        if not (self._alone and next_alone):
            self._alone = False
            fcntl.flock(self._room, fcntl.LOCK_UN)


MACHINE = Machine()


def _alone(item) -> bool:
    return item is not None and item.get_closest_marker("alone") is not None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item, nextitem) -> Generator[None, object, object]:
    """Let a test marked `alone` have the machine: other workers wait before their next test, outside its timeout."""
    MACHINE.take(_alone(item))
    try:
        return (yield)
    finally:
        MACHINE.leave(_alone(nextitem))
