"""What to do next with the versions of one model: load, unload, wait. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum


class State(Enum):
    """The life of a version. END without an error means unloaded, END with one that it could not be loaded."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


def to_load(aspired: Iterable[int], states: Mapping[int, State]) -> list[int]:
    """Aspired versions that nobody has begun to load, newest first."""
    return sorted((version for version in aspired if version not in states), reverse=True)


def to_unload(aspired: Iterable[int], states: Mapping[int, State]) -> list[int]:
    """Loaded versions that may go without the model going.

    The new version first becomes available, then the old one goes; if nothing is aspired any more, all go.

    Source: https://www.tensorflow.org/tfx/serving/architecture (availability-preserving policy)
    """
    wanted = set(aspired)
    available = {version for version, state in states.items() if state is State.AVAILABLE}
    if wanted and not wanted & available:
        return []
    return sorted(available - wanted)


def to_forget(aspired: Iterable[int], states: Mapping[int, State], failed: Iterable[int]) -> list[int]:
    """Versions whose life is over; aspired to, they begin anew.

    One that could not be loaded is remembered as long as it is aspired to, or it would be tried again and again.
    """
    remembered = set(aspired) & set(failed)
    return sorted(version for version, state in states.items() if state is State.END and version not in remembered)
