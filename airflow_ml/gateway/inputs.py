"""A request's rows against the signature of the version that shall answer: columns, or what is wrong with which field.

A field must be there; ``null`` says that its value is not known, which is how the version learnt to read it in
training. What no version of the routing takes is refused: it is a misspelt feature.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.errors import BadFields
from airflow_ml.lifecycle.preprocessing import MISSING_INT

if TYPE_CHECKING:
    import numpy as np

Columns = dict[str, "np.ndarray[Any, Any]"]
Row = Mapping[str, Any]
Problem = dict[str, Any]

SHOWN = 20
"""Problems that a caller is told of at once: a caller who sends a thousand rows of another model needs no more."""

_LARGEST_FLOAT32 = 3.4028234663852886e38
_WHOLE = range(-(2**63), 2**63)


def entity_of(row: Row, entity: str) -> str:
    """The entity of a row as text.

    Raises:
        ValueError: It is missing, or neither text nor a whole number.
    """
    value = row.get(entity)
    if type(value) is int:
        return str(value)
    if type(value) is not str or not value:
        raise ValueError("is missing: text or a whole number that says what the prediction is about")
    return value


def columns_of(
    rows: Sequence[Row], places: Sequence[int], signature: Mapping[str, str], features: Collection[str], entity: str
) -> Columns:
    """Rows as the columns of a signature.

    Args:
        rows: Raw features by name.
        places: Of the rows in their request, for messages.
        signature: Name → ``string``, ``int64``, ``float32`` …
        features: All that some version takes: a row may have them.
        entity: Field that a row has beside its features.

    Raises:
        BadFields: A field is missing, unknown, or of another type; `BadFields.fields` names each.
    """
    import numpy as np

    problems: list[Problem] = []
    columns: Columns = {}
    for name, dtype in signature.items():
        read, kind = _reader(dtype)
        values: list[Any] = []
        for place, row in zip(places, rows, strict=True):
            try:
                values.append(read(row[name]))
            except KeyError:
                problems.append(problem(place, name, f"is missing: a {dtype}, or null where it is not known"))
            except ValueError as error:
                problems.append(problem(place, name, str(error)))
        if not problems:
            columns[name] = np.array(values, dtype=kind)
    for place, row in zip(places, rows, strict=True):
        problems += [
            problem(place, name, f"is unknown; the model takes {', '.join(sorted(signature))}")
            for name in row
            if name not in features and name != entity
        ]
    if problems:
        raise bad_fields(problems)
    return columns


def problem(row: int, field: str, what: str) -> Problem:
    """What is wrong with one field of a row."""
    return {"row": row, "field": field, "problem": what}


def bad_fields(problems: Iterable[Problem]) -> BadFields:
    """The error for these problems, in the order of the rows."""
    fields = tuple(sorted(problems, key=lambda each: each["row"]))
    more = f", and {len(fields) - 1} more" if len(fields) > 1 else ""
    error = BadFields(
        f"row {fields[0]['row']}: {fields[0]['field']!r} {fields[0]['problem']}{more}",
        remedy="correct the request; GET /v1/models/<model> says what the model takes",
    )
    error.fields = fields
    return error


def _text(value: Any) -> str:
    if value is None:
        return ""
    if type(value) is not str:
        raise ValueError(f"is text; got {_shown(value)}")
    return value


def _whole(value: Any) -> int:
    if value is None:
        return MISSING_INT
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or value not in _WHOLE:
        raise ValueError(f"is a whole number of 64 bits; got {_shown(value)}")
    return value


def _number(value: Any) -> float:
    if value is None:
        return float("nan")
    if type(value) is float or type(value) is int:
        if abs(value) <= _LARGEST_FLOAT32:
            return float(value)
        raise ValueError(f"is a number of at most {_LARGEST_FLOAT32:.3g}; got {_shown(value)}")
    raise ValueError(f"is a number; got {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"


def _reader(dtype: str) -> tuple[Callable[[Any], Any], str]:
    """How a value is read, and the column's type as our client sends it."""
    if dtype == "string":
        return _text, "object"
    return (_whole, "int64") if dtype.startswith(("int", "uint")) else (_number, "float32")
