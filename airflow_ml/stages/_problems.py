"""Why a landing file cannot be used: what is wrong, in which row, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass

_DELIVER_AGAIN = "have the upstream deliver the file again"


@dataclass(frozen=True)
class Problem:
    """Why a file is refused.

    Attributes:
        what: What is wrong.
        remedy: What to do about it.
        row: Row of the first occurrence, the header being 1; None when it is the whole file.
    """

    what: str
    remedy: str = _DELIVER_AGAIN
    row: int | None = None

    def __str__(self) -> str:
        return self.what if self.row is None else f"row {self.row}: {self.what}"


class Refused(Exception):
    """The file cannot be used; `problems` says all that is wrong."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


def more(count: int) -> str:
    """What follows the first of several: how many there are besides."""
    return f" (and {count - 1} more)" if count > 1 else ""


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return ", ".join(names)
