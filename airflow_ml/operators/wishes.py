"""What a person asks of the release form, or a task of its arguments: looked at before any work."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.lifecycle.releases import Release

if TYPE_CHECKING:
    from airflow_ml.hooks.releases import ReleaseRecord

_FORM = "the release form"


class Mode(StrEnum):
    """How a version comes to its traffic; words of the form, and of the stage."""

    DECLARED = "declared"
    CANARY = "canary"
    SHADOW = "shadow"
    AT_ONCE = "at_once"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class Wish:
    """A checked wish.

    Attributes:
        release: What is to get traffic; it passed its gates.
        mode: How.
        steps: Canary steps in place of the declared ones; None keeps those.
    """

    release: Release
    mode: Mode
    steps: tuple[float, ...] | None = None

    @classmethod
    def of(cls, record: "ReleaseRecord", version: Any, mode: Any = "", steps: Any = None) -> Self:
        """Check a wish; fields come as a form, a template or a caller has them.

        Args:
            record: Of the model.
            version: Registry version. Empty for a rollback: the one before the champion.
            mode: Empty is as declared.
            steps: Shares; a list, or text with commas; empty is as declared.

        Raises:
            SpecError: A field is wrong.
            NotReleasable: No such version, or its gates are closed.
        """
        chosen, shares = _mode(mode), parse_steps(steps)
        if shares is not None and chosen not in (Mode.DECLARED, Mode.CANARY):
            raise SpecError(
                f"steps mean nothing with mode {chosen.value}", _FORM, "leave the steps out, or choose canary"
            )
        number = _version(version)
        if number is None:
            if chosen is not Mode.ROLLBACK:
                raise SpecError("no version is given", _FORM, "give `version`")
            number = record.back()
        release = record.release(number)
        release.require_passed()
        return cls(release, chosen, shares)


def _mode(value: Any) -> Mode:
    if value in (None, ""):
        return Mode.DECLARED
    try:
        return Mode(str(value))
    except ValueError:
        raise SpecError(f"mode {value!r} is unknown", _FORM, f"choose one of {', '.join(Mode)}") from None


def _version(value: Any) -> int | None:
    if value in (None, "", "None"):
        return None
    if type(value) is int or (isinstance(value, str) and value.isascii() and value.isdigit()):
        return int(value)
    raise SpecError(f"version {value!r} is not a whole number", _FORM, "give a registered version, as 3")


def parse_steps(value: Any) -> tuple[float, ...] | None:
    """Canary steps; None for none given.

    Raises:
        SpecError: They are no shares, or do not rise.
    """
    if value in (None, "", "None", [], ()):
        return None
    given = value.strip("[]() ").split(",") if isinstance(value, str) else value
    remedy = "give rising shares between 0 and 1, as 0.01, 0.1, 0.5; all traffic comes after the last"
    if not isinstance(given, Sequence):
        raise SpecError(f"steps {value!r} are no list of shares", _FORM, remedy)
    try:
        shares = tuple(float(str(share).strip()) for share in given if str(share).strip())
    except ValueError:
        raise SpecError(f"steps {value!r} are no shares", _FORM, remedy) from None
    if any(not 0 < share < 1 for share in shares):
        raise SpecError(f"steps {value!r}: each is a share between 0 and 1", _FORM, remedy)
    if list(shares) != sorted(set(shares)):
        raise SpecError(f"steps {value!r} do not rise", _FORM, remedy)
    return shares
