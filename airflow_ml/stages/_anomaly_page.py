"""The anomalies of a window as a page for people."""

from collections.abc import Sequence
from html import escape

from airflow_ml.lifecycle.anomalies import Anomalies, Anomaly

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1c2024 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .4rem .6rem; vertical-align: top }
th { border-bottom: 2px solid #c9ced4 } td { border-bottom: 1px solid #e3e6e9 }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.ok { color: #14713a; font-weight: 600 } .warn { color: #8a5300; font-weight: 600 }
.fail { color: #b3261e; font-weight: 600 }
"""

_VERDICTS = {
    "ok": ("ok", "sound", "Every check passed."),
    "warnings": ("warn", "sound, with warnings", "Nothing stops the pipeline; somebody should have a look."),
    "broken": ("fail", "broken", "Nothing is built from these partitions, and no training starts because of them."),
}


def anomaly_page(found: Anomalies) -> str:
    """One HTML page without scripts or outside references, the failures first.

    Args:
        found: What validation found.
    """
    style, verdict, meaning = _VERDICTS[found.verdict]
    window = " to ".join(dict.fromkeys(found.window))
    title = f"{escape(found.model)}, {escape(window)}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}: anomalies</title><style>{_STYLE}</style></head>
<body><h1>{title}: the data is <span class="{style}">{verdict}</span></h1>
<p>{meaning} {found.rows:,} rows were compared with {escape(found.compared_with)}.</p>
{_table(found.anomalies)}
{_unjudged(found.unjudged)}</body></html>
"""


def _table(anomalies: Sequence[Anomaly]) -> str:
    if not anomalies:
        return ""
    # A stable sort: within a severity the order of days remains.
    rows = "\n".join(_row(anomaly) for anomaly in sorted(anomalies, key=lambda anomaly: anomaly.severity))
    heads = "".join(f"<th>{head}</th>" for head in ("Severity", "Partition", "Column", "Found", "Expected", "Rows"))
    return f"<table><thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>"


def _row(anomaly: Anomaly) -> str:
    cells = [
        f'<td class="{anomaly.severity}">{anomaly.severity}</td>',
        *(f"<td>{escape(text)}</td>" for text in (anomaly.day, anomaly.column or "", anomaly.found, anomaly.expected)),
        f'<td class="n">{"" if anomaly.rows is None else anomaly.rows}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _unjudged(unjudged: Sequence[str]) -> str:
    if not unjudged:
        return ""
    return f"<h2>Not judged</h2>\n<ul>{''.join(f'<li>{escape(reason)}</li>' for reason in unjudged)}</ul>"
