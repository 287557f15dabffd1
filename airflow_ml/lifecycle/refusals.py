"""What pydantic refused, in a user's words: the field, what is wrong, and the fix."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

_NAMED = re.compile(r"([a-z_]+(?:\.[a-z_]+)*): (.*)", re.DOTALL)
"""A validator that looks at several fields says which one to change: ``slices: 'x' is no column; …``."""

_WHOLE, _NUMBER, _DATE, _TUPLE = (
    "write a whole number",
    "write a number",
    "write a date like '2013-01-31'",
    "write a list: (value,) in Python, with the comma",
)
_CONSTRUCTORS = "use one of the constructors that airflow_ml exports"

_FIXES: Mapping[str, str] = {
    "missing": "add it",
    "extra_forbidden": "no such field: check the spelling, or remove it",
    "union_tag_invalid": _CONSTRUCTORS,
    "union_tag_not_found": _CONSTRUCTORS,
    "model_attributes_type": _CONSTRUCTORS,
    "model_type": "write {class_name}(…)",
    "literal_error": "write {expected}",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "write a number that is neither NaN nor infinite",
    "bool_type": "write True or False",
    "bool_parsing": "write True or False",
    "string_type": "write text, in quotes",
    "tuple_type": _TUPLE,
    "list_type": _TUPLE,
    "dict_type": 'write {{"name": value}}',
    "date_type": _DATE,
    "date_parsing": _DATE,
    "date_from_datetime_parsing": _DATE,
    "greater_than": "choose more than {gt:.12g}",
    "greater_than_equal": "choose {ge:.12g} or more",
    "less_than": "choose less than {lt:.12g}",
    "less_than_equal": "choose {le:.12g} or less",
    "too_short": "give at least {min_length}",
    "too_long": "give at most {max_length}",
    "string_too_short": "write at least {min_length} characters",
    "string_too_long": "write at most {max_length} characters",
}
"""Type of a pydantic error to the fix, which may name what the error knows."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a declaration: the field, what is wrong, and the fix."""

    field: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.field}: {self.what}\n    fix: {self.fix}"


def problems_of(error: ValidationError, quote: bool = True) -> list[Problem]:
    """All that was refused.

    Args:
        error: Of any of our declarations.
        quote: Say what was given, where the message does not; not where it may be a password.

    Returns:
        Fields are relative to the declaration that is the error's title.
    """
    problems = []
    for found in error.errors(include_url=False):
        field = ".".join(str(part) for part in found["loc"])
        what, fix = _said(found)
        # Our own validators quote what matters: the whole value may be a page long.
        if quote and found["type"] not in ("missing", "value_error"):
            what += f" (given: {found['input']!r})"[:120]
        named = _NAMED.match(what)
        if not field and named:
            field, what = named.groups()
        problems.append(Problem(field, what, fix))
    return problems


def _said(found: Mapping[str, Any]) -> tuple[str, str]:
    what = found["msg"].removeprefix("Value error, ")
    if found["type"] == "value_error":
        # Our own validators say the fix after a semicolon.
        what, _, fix = what.partition("; ")
    else:
        fix = _FIXES.get(found["type"], "").format(**found.get("ctx", {}))
    return what, fix or "change the value so that it is as the message says"
