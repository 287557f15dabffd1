"""The top of a report: what was looked at, how much of it the page saw, and the verdicts that count.

Evidently's page shows its own tests on the rows that it was given; a reader has to know which of them decide.
"""

import html
from collections.abc import Mapping, Sequence

from airflow_ml.lifecycle.observations import ColumnDrift, Observation, Status

_STYLE = (
    "font-family:Roboto,Helvetica,Arial,sans-serif;max-width:72rem;margin:1.5rem auto 0;padding:0 1.5rem;color:#222;"
    "background:#fff"
)
_LEFT = "text-align:left;padding-right:1.5rem"
_COLOURS = {"pass": "#1b7f3b", "fail": "#b3261e", "not_judged": "#6b6b6b"}


def with_header(page: str, title: str, observation: Observation, judged_on: Mapping[str, str]) -> str:
    """A page with a header at its top.

    Args:
        page: Evidently's page, or an empty text: then the header is a page of its own.
        title: Heading.
        observation: What was found.
        judged_on: Test name to the rows that it was judged on.
    """
    header = _header(title, observation, judged_on)
    if not page:
        head = f'<head><meta charset="UTF-8"><title>{_text(title)}</title></head>'
        return f'<!DOCTYPE html><html lang="en">{head}<body>{header}</body></html>'
    begin, body, rest = page.partition("<body>")
    return f"{begin}{body}{header}{rest}"


def _header(title: str, seen: Observation, judged_on: Mapping[str, str]) -> str:
    facts = [
        ("model", f"{seen.model}, version {seen.model_version or 'unknown'}"),
        ("window", str(seen.window)),
        ("reference", f"test split of this version, {seen.reference}" if seen.reference else "none"),
        ("predictions", f"{seen.rows:,}, {seen.labelled:,} of them labelled (coverage {seen.coverage:.1%})"),
        *((f"this page saw, {side}", f"{part:,} of {of:,} rows") for side, (part, of) in seen.sampled.items()),
    ]
    verdicts = [(name.replace("_", " "), getattr(seen, name), on) for name, on in judged_on.items()]
    rows = "".join(f"<tr><th style='{_LEFT}'>{_text(name)}</th><td>{_text(fact)}</td></tr>" for name, fact in facts)
    tests = "".join(
        f"<tr><th style='{_LEFT}'>{_text(name)}</th>{_verdict(status)}<td>{_text(on)}</td></tr>"
        for name, status, on in verdicts
    )
    columns = _columns(seen.columns)
    lists = _list("The input is broken", seen.broken) + _list("Notes", seen.notes)
    return (
        f"<section style='{_STYLE}'><h1 style='font-size:1.4rem'>{_text(title)}</h1><table>{rows}</table>"
        f"<h2 style='font-size:1.1rem'>Verdicts</h2><table>{tests}</table>{lists}{columns}</section>"
    )


def _columns(columns: Sequence[ColumnDrift]) -> str:
    """The watched columns, the farthest first."""
    if not columns:
        return ""
    heads = ("column", "verdict", "distance", "limit", "method", "missing", "in the reference")
    head = "".join(f"<th style='{_LEFT}'>{name}</th>" for name in heads)
    rows = "".join(f"<tr>{_cells(c)}</tr>" for c in sorted(columns, key=lambda c: (-c.excess, c.column)))
    return f"<h2 style='font-size:1.1rem'>Columns</h2><table><tr>{head}</tr>{rows}</table>"


def _cells(column: ColumnDrift) -> str:
    distance = "" if column.distance is None else f"{column.distance:.3f}"
    shares = (f"{column.missing:.1%}", f"{column.missing_reference:.1%}")
    after = "".join(f"<td>{_text(v)}</td>" for v in (distance, f"{column.threshold:g}", column.method, *shares))
    return f"<td>{_text(column.column)}</td>{_verdict(column.status)}{after}"


def _verdict(status: Status) -> str:
    style = f"{_LEFT};font-weight:600;color:{_COLOURS[status]}"
    return f"<td style='{style}'>{status.replace('_', ' ')}</td>"


def _list(title: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    points = "".join(f"<li>{_text(item)}</li>" for item in items)
    return f"<h2 style='font-size:1.1rem'>{_text(title)}</h2><ul>{points}</ul>"


def _text(value: str) -> str:
    return html.escape(value, quote=True)
