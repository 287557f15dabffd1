"""Strict parsing of one delimited file: from bytes to a typed table, or everything that is wrong with it, by row.

Nothing is guessed and nothing is replaced: a header, a byte or a value that is not as declared is a `Problem`. Rows
are counted as a text editor does, the header being row 1.
"""

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from airflow_ml.spec.source import Files
from airflow_ml.stages._delimited import Lines, check_header, decoded, header_of, rows_of
from airflow_ml.stages._event_times import REMEDY, strangers
from airflow_ml.stages._problems import Problem, Refused, more
from airflow_ml.stages._typed import typed_columns

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Parsed:
    """A file that is as declared.

    Attributes:
        table: Declared columns, typed, in declared order, rows as in the file.
        new_columns: Columns of the header that are not declared, where the schema lets them pass; they are not read.
    """

    table: "pa.Table"
    new_columns: tuple[str, ...] = ()


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
    text = decoded(content, source.encoding)
    if not text.endswith(b"\n"):
        row = text.count(b"\n") + 1
        raise Refused([Problem("the last row does not end with a newline, so the file is cut off", row=row)])
    header = header_of(text, source.delimiter)
    new = check_header(header, source)
    lines = Lines(text, source.delimiter)
    texts = rows_of(text, header, source, lines)
    if not texts.num_rows:
        raise Refused([Problem("the file has a header and no rows")])
    table = typed_columns(texts, source, lines)
    if event is not None:
        _check_day(table, *event, lines)
    return Parsed(table, new)


def _check_day(table: "pa.Table", column: str, day: date, lines: Lines) -> None:
    found = list(strangers(table[column], day))
    if found:
        row, at = found[0]
        what = f"column {column!r}: the event of {at:%Y-%m-%d %H:%M} is not of {day}, in no time zone{more(len(found))}"
        raise Refused([Problem(what, REMEDY, lines(row + 2))])
