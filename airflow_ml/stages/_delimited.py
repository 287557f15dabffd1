"""Delimited text: from bytes to columns of text, or what is wrong with encoding, header or rows."""

import contextlib
import csv
import io
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from airflow_ml.spec.source import Files
from airflow_ml.stages._problems import Problem, Refused, listed, more

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.csv as pacsv


class Lines:
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


def decoded(content: bytes, encoding: str) -> bytes:
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


def header_of(text: bytes, delimiter: str) -> list[str]:
    """Names of the columns."""
    line = text[: text.index(b"\n")].decode().removesuffix("\r")
    if "\r" in line:
        raise Refused([Problem("lines end with CR alone", "have it delivered with LF, or CR and LF", 1)])
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error as error:
        raise Refused([Problem(f"the header cannot be read: {error}", row=1)]) from error


def check_header(header: Sequence[str], source: Files) -> tuple[str, ...]:
    """Compare the header with the declared columns; returns the new ones that may pass."""
    declared = source.schema_.names
    problems = []
    missing = [name for name in declared if name not in header]
    new = [name for name in header if name not in declared]
    twice = sorted({name for name in header if header.count(name) > 1})
    if missing:
        problems.append(
            Problem(f"columns missing: {listed(missing)}", "have the upstream restore them, or change the schema", 1)
        )
    if new and source.schema_.new_columns == "fail":
        remedy = "declare them, or let them pass with new_columns='warn'"
        problems.append(Problem(f"columns that are not declared: {listed(new)}", remedy, 1))
    if twice:
        problems.append(Problem(f"columns named twice: {listed(twice)}", row=1))
    if not problems:
        found = [name for name in header if name in declared]
        moved = [name for name, expected in zip(found, declared, strict=True) if name != expected]
        if moved:
            remedy = "ask the upstream what else changed, then declare the columns in the new order"
            problems.append(Problem(f"columns in another order, from {moved[0]!r} on: {listed(found)}", remedy, 1))
    if problems:
        raise Refused(problems)
    return tuple(new)


def rows_of(text: bytes, header: Sequence[str], source: Files, lines: Lines) -> "pa.Table":
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
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:  # the latter: a quote in the header that is not closed
        raise Refused([Problem(f"it cannot be read as delimited text: {error}")]) from error
    if wrong:
        row, fields = wrong[0]
        raise Refused([Problem(f"{fields} fields instead of {len(header)}{more(len(wrong))}", row=lines(row))])
    return table
