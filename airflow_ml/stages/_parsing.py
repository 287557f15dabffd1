"""Strict parsing of one delimited file: from bytes to a typed table, or everything that is wrong with it, by row.

Nothing is guessed and nothing is replaced: a header, a byte or a value that is not as declared is a `Problem`. Rows
are counted as a text editor does, the header being row 1. Whole columns are converted at once; rows are looked at one
by one only to say which of them are wrong.
"""

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING

from airflow_ml.spec.source import Column, ColumnType, Files
from airflow_ml.stages._event_times import REMEDY, strangers

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = 3
_DELIVER_AGAIN = "have the upstream deliver the file again"

_PATTERNS: dict[ColumnType, str] = {
    "int": r"^[+-]?[0-9]{1,19}$",
    # Neither NaN nor infinity: a missing number is an empty field.
    "float": r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$",
    "bool": r"^(true|false|True|False|TRUE|FALSE|0|1)$",
    # Without a zone: a declared timestamp is the source's own clock.
    "timestamp": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?$",
}


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


@dataclass(frozen=True)
class Parsed:
    """A file that is as declared.

    Attributes:
        table: Declared columns, typed, in declared order, rows as in the file.
        new_columns: Columns of the header that are not declared, where the schema lets them pass; they are not read.
    """

    table: "pa.Table"
    new_columns: tuple[str, ...] = ()


class Refused(Exception):
    """The file cannot be used; `problems` says all that is wrong."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


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


def parse(content: bytes, source: Files, event: tuple[str, date] | None = None) -> Parsed:
    """Parse a decompressed file.

    Args:
        content: The whole file.
        source: Its declaration.
        event: Column of the event's time, and the day that the events are of; None where nothing is said of it.

    Raises:
        Refused: With everything that is wrong.
    """
    if not content:
        raise Refused([Problem("the file is empty")])
    text = _decoded(content, source.encoding)
    if not text.endswith(b"\n"):
        row = text.count(b"\n") + 1
        raise Refused([Problem("the last row does not end with a newline, so the file is cut off", row=row)])
    header = _header(text, source.delimiter)
    new = _check_header(header, source)
    lines = _Lines(text, source.delimiter)
    texts = _rows(text, header, source, lines)
    if not texts.num_rows:
        raise Refused([Problem("the file has a header and no rows")])
    table = _typed(texts, source, lines)
    if event is not None:
        _check_day(table, *event, lines)
    return Parsed(table, new)


class _Lines:
    """Where records start: a quoted field may hold newlines, so a record is not a line.

    Counted once, when somebody asks: a file that is as declared never pays for it.
    """

    def __init__(self, text: bytes, delimiter: str) -> None:
        self._text = text
        self._delimiter = delimiter

    def __call__(self, record: int) -> int:
        """The line in which a record starts; both are counted from 1, the header."""
        return self._starts[record - 1] if b'"' in self._text and record <= len(self._starts) else record

    @cached_property
    def _starts(self) -> list[int]:
        reader = csv.reader(io.StringIO(self._text.decode(), newline=""), delimiter=self._delimiter)
        starts = [1]
        # A field that is longer than `csv` reads ends the count: from there on, the record has to do.
        with contextlib.suppress(csv.Error):
            starts.extend(reader.line_num + 1 for _ in reader)
        return starts


def _decoded(content: bytes, encoding: str) -> bytes:
    """The content as UTF-8, which is all that Arrow reads."""
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        bad = f"byte 0x{content[error.start]:02x} at offset {error.start} is not {encoding}"
        raise Refused([Problem(bad, f"deliver it as {encoding}, or declare the source's `encoding`", row)]) from error
    if text.startswith("\ufeff"):
        raise Refused(
            [Problem("a byte order mark precedes the header", "declare encoding='utf-8-sig', or deliver without it", 1)]
        )
    return content if encoding.lower() in ("utf-8", "utf8") else text.encode()


def _header(text: bytes, delimiter: str) -> list[str]:
    line = text[: text.index(b"\n")].decode().removesuffix("\r")
    return next(csv.reader([line], delimiter=delimiter), [])


def _check_header(header: Sequence[str], source: Files) -> tuple[str, ...]:
    """Compare the header with the declared columns; returns the new ones that may pass."""
    declared = source.schema_.names
    problems = []
    missing = [name for name in declared if name not in header]
    new = [name for name in header if name not in declared]
    twice = sorted({name for name in header if header.count(name) > 1})
    if missing:
        problems.append(
            Problem(f"columns missing: {_listed(missing)}", "have the upstream restore them, or change the schema", 1)
        )
    if new and source.schema_.new_columns == "fail":
        remedy = "declare them, or let them pass with new_columns='warn'"
        problems.append(Problem(f"columns that are not declared: {_listed(new)}", remedy, 1))
    if twice:
        problems.append(Problem(f"columns named twice: {_listed(twice)}", row=1))
    if not problems:
        found = [name for name in header if name in declared]
        moved = [name for name, expected in zip(found, declared, strict=True) if name != expected]
        if moved:
            remedy = "ask the upstream what else changed, then declare the columns in the new order"
            problems.append(Problem(f"columns in another order, from {moved[0]!r} on: {_listed(found)}", remedy, 1))
    if problems:
        raise Refused(problems)
    return tuple(new)


def _rows(text: bytes, header: Sequence[str], source: Files, lines: _Lines) -> "pa.Table":
    """All fields as text; an empty field is null."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    wrong: list[tuple[int, int]] = []

    def note(row: "pacsv.InvalidRow") -> str:
        wrong.append((row.number or 0, row.actual_columns))
        return "skip"

    try:
        table = pacsv.read_csv(
            pa.BufferReader(text),
            # One thread: only then are the rows numbered.
            read_options=pacsv.ReadOptions(use_threads=False, block_size=max(len(text), 1) + 1),
            parse_options=pacsv.ParseOptions(
                delimiter=source.delimiter, newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=note
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                include_columns=list(source.schema_.names),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise Refused([Problem(f"it cannot be read as delimited text: {error}")]) from error
    if wrong:
        row, fields = wrong[0]
        raise Refused([Problem(f"{fields} fields instead of {len(header)}{_more(len(wrong))}", row=lines(row))])
    return table


def _typed(texts: "pa.Table", source: Files, lines: _Lines) -> "pa.Table":
    import pyarrow as pa

    problems: list[Problem] = []
    columns = []
    for column in source.schema_.columns:
        values = texts[column.name].combine_chunks()
        found = list(_empty_fields(values, column, source.schema_.key, lines))
        typed, bad = _convert(values, column.type)
        if bad:
            shown = ", ".join(repr(values[index].as_py()) for index in bad[:_SHOWN])
            what = f"column {column.name!r}: {shown} cannot be read as {column.type}{_more(len(bad))}"
            found.append(Problem(what, "correct the value at its source, or declare another type", lines(bad[0] + 2)))
        problems += found
        columns.append(typed)
    problems += _duplicates(texts[source.schema_.key], source.schema_.key, lines)
    if problems:
        raise Refused(sorted(problems, key=lambda problem: problem.row or 0))
    return pa.Table.from_arrays(columns, schema=arrow_schema(source.schema_.columns))


def _empty_fields(values: "pa.Array", column: Column, key: str, lines: _Lines) -> Iterator[Problem]:
    if values.null_count and (not column.nullable or column.name == key):
        rows = [index for index, valid in enumerate(values.is_valid().to_pylist()) if not valid]
        what = f"column {column.name!r}: an empty field{_more(len(rows))}"
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


def _check_day(table: "pa.Table", column: str, day: date, lines: _Lines) -> None:
    found = list(strangers(table[column], day))
    if found:
        (row, at), more = found[0], _more(len(found))
        what = f"column {column!r}: the event of {at:%Y-%m-%d %H:%M} is not of {day}, in no time zone{more}"
        raise Refused([Problem(what, REMEDY, lines(row + 2))])


def _duplicates(keys: "pa.ChunkedArray", name: str, lines: _Lines) -> list[Problem]:
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
    return [Problem(f"key {name}={key!r} stands in row {lines(before)} already{_more(len(again))}", row=lines(row))]


def _more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
