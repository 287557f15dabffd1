"""Columns of text as declared types, or which of their values cannot be read as such.

Whole columns are converted at once; rows are looked at one by one only to say which of them are wrong.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from airflow_ml.spec.source import Column, ColumnType, Files
from airflow_ml.stages._delimited import Lines
from airflow_ml.stages._problems import Problem, Refused, more

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = 3

_PATTERNS: dict[ColumnType, str] = {
    "int": r"^[+-]?[0-9]{1,19}$",
    # Neither NaN nor infinity: a missing number is an empty field.
    "float": r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$",
    "bool": r"^(true|false|True|False|TRUE|FALSE|0|1)$",
    # Without a zone: a declared timestamp is the source's own clock.
    "timestamp": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?$",
}


def arrow_type(type_: ColumnType) -> "pa.DataType":
    """How a declared type is stored."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "timestamp": pa.timestamp("us"),
    }
    return types[type_]


def arrow_schema(columns: Sequence[Column]) -> "pa.Schema":
    """Declared columns as they are stored."""
    import pyarrow as pa

    return pa.schema([(column.name, arrow_type(column.type)) for column in columns])


def typed_columns(texts: "pa.Table", source: Files, lines: Lines) -> "pa.Table":
    """Declared columns in declared order; the key stands in one row only."""
    import pyarrow as pa

    problems: list[Problem] = []
    columns = []
    for column in source.schema_.columns:
        values = texts[column.name].combine_chunks()
        found = list(_empty_fields(values, column, source.schema_.key, lines))
        typed, bad = _convert(values, column.type)
        if bad:
            shown = ", ".join(repr(values[index].as_py()) for index in bad[:_SHOWN])
            what = f"column {column.name!r}: {shown} cannot be read as {column.type}{more(len(bad))}"
            found.append(Problem(what, "correct the value at its source, or declare another type", lines(bad[0] + 2)))
        problems += found
        columns.append(typed)
    problems += _duplicates(texts[source.schema_.key], source.schema_.key, lines)
    if problems:
        raise Refused(sorted(problems, key=lambda problem: problem.row or 0))
    return pa.Table.from_arrays(columns, schema=arrow_schema(source.schema_.columns))


def _empty_fields(values: "pa.Array", column: Column, key: str, lines: Lines) -> Iterator[Problem]:
    if values.null_count and (not column.nullable or column.name == key):
        rows = [index for index, valid in enumerate(values.is_valid().to_pylist()) if not valid]
        what = f"column {column.name!r}: an empty field{more(len(rows))}"
        remedy = (
            "the key names a row and is never empty"
            if column.name == key
            else "fill it at its source, or declare nullable=True"
        )
        yield Problem(what, remedy, lines(rows[0] + 2))


def _convert(values: "pa.Array", type_: ColumnType) -> "tuple[pa.Array, list[int]]":
    """Typed values and the indices of those that are not of the type."""
    import pyarrow as pa
    import pyarrow.compute as pc

    target = arrow_type(type_)
    if type_ == "string":
        return values, []
    fits = pc.fill_null(pc.match_substring_regex(values, _PATTERNS[type_]), True)
    if pc.all(fits).as_py():
        try:
            return _checked(values, type_, target), []
        except pa.ArrowInvalid:  # the 30th of February, or a number that is too large: find the rows
            pass
    bad = []
    for index, (value, fit) in enumerate(zip(values, fits.to_pylist(), strict=True)):
        try:
            if fit:
                _checked(pa.array([value.as_py()], pa.string()), type_, target)
        except pa.ArrowInvalid:
            fit = False
        if not fit:
            bad.append(index)
    return pa.nulls(len(values), target), bad


def _checked(values: "pa.Array", type_: ColumnType, target: "pa.DataType") -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    if type_ == "bool":
        return pc.is_in(values, pa.array(["true", "True", "TRUE", "1"])) if not values.null_count else _bools(values)
    if type_ == "int":
        # Arrow's own conversion knows no plus sign.
        values = pc.replace_substring_regex(values, r"^\+", "")
    typed = pc.cast(values, target)
    if type_ == "float" and not pc.all(pc.is_finite(typed), min_count=0).as_py():
        raise pa.ArrowInvalid("too large")
    return typed


def _bools(values: "pa.Array") -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    true = pc.is_in(values, pa.array(["true", "True", "TRUE", "1"]))
    return pc.if_else(values.is_valid(), true, pa.scalar(None, pa.bool_()))


def _duplicates(keys: "pa.ChunkedArray", name: str, lines: Lines) -> list[Problem]:
    present = keys.drop_null()
    if len(present.unique()) == len(present):
        return []
    first: dict[str, int] = {}
    again: list[tuple[int, int, str]] = []
    for row, key in enumerate(keys.to_pylist(), start=2):
        if key in first:
            again.append((row, first[key], key))
        elif key is not None:
            first[key] = row
    row, before, key = again[0]
    return [Problem(f"key {name}={key!r} stands in row {lines(before)} already{more(len(again))}", row=lines(row))]
