"""The ground that every declaration stands on: frozen models, names, days and entry points."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_DAYS = re.compile(r"^(\d+)\s*d$")
_ENTRY_POINT = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,62}$")


class Frozen(BaseModel):
    """A value that cannot change and has no unknown field: a misspelt option is an error, not a silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _days(value: Any) -> Any:
    """Turn ``"14d"`` into 14; an integer is taken as days already."""
    if isinstance(value, str):
        match = _DAYS.match(value.strip())
        if not match:
            raise ValueError(f"{value!r} is not a number of days; write it like '14d'")
        return int(match.group(1))
    return value


def _entry_point(value: str) -> str:
    if not _ENTRY_POINT.match(value):
        raise ValueError(f"{value!r} is not an entry point; write it like 'package.module:function'")
    return value


def _name(value: str) -> str:
    if not _NAME.match(value):
        raise ValueError(
            f"{value!r} is not a usable name; use lower-case letters, digits and '_', a letter first, at most 63"
        )
    return value


def _several(value: Any) -> Any:
    """Refuse the one value that ``(value)`` is, before pydantic takes it apart and complains of its fields."""
    if isinstance(value, BaseModel):
        raise ValueError(f"this is one {type(value).__name__} and no tuple; write (value,), with the comma")
    return value


Several = BeforeValidator(_several)
"""For tuples of declarations."""

Days = Annotated[int, BeforeValidator(_days), Field(ge=0)]
"""A span in whole days; declared as ``"14d"`` or 14. Partitions are days, so nothing finer exists."""

EntryPoint = Annotated[str, AfterValidator(_entry_point)]
"""``package.module:function``: a string, so that declaring a model imports neither Spark nor torch."""

Name = Annotated[str, AfterValidator(_name)]
"""A name that is safe in DAG ids, folder names, SQL and URLs at once."""
