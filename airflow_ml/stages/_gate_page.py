"""The gate report as a page for people."""

from html import escape

from airflow_ml.lifecycle.gates import GateReport, GateResult

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1c2024 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .4rem .6rem; vertical-align: top }
th { border-bottom: 2px solid #c9ced4 } td { border-bottom: 1px solid #e3e6e9 }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.open { color: #14713a; font-weight: 600 } .closed { color: #b3261e; font-weight: 600 } code { font-size: 85% }
"""


def gate_page(report: GateReport, window: str) -> str:
    """One HTML page without scripts or outside references.

    Args:
        report: What was decided.
        window: Of the training.
    """
    rows = "\n".join(_row(result) for result in report.gates)
    kind = "open" if report.verdict == "passed" else "closed"
    versus = f"champion version {report.champion}" if report.champion else "no champion: it is the first"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(report.model)}: gates</title><style>{_STYLE}</style></head>
<body><h1>{escape(report.model)}, trained on {escape(window)}: <span class="{kind}">{report.verdict}</span></h1>
<p>Compared with {versus}. A gate is open only for a finite number on enough rows.</p>
<table><thead><tr><th>Gate</th><th>Decision</th><th>Observed</th><th>Threshold</th><th>Rows</th><th>Reason</th></tr></thead>
<tbody>
{rows}
</tbody></table>
{_server(report)}
<p>Bound to SavedModel <code>{report.saved_model_sha256[:16]}</code>,
evaluation <code>{report.evaluation_sha256[:16]}</code>,
training <code>{report.training_fingerprint[:16]}</code>.</p></body></html>
"""


def _row(result: GateResult) -> str:
    decision = "open" if result.open else "closed"
    cells = [
        f"<td>{escape(result.gate)}</td>",
        f'<td class="{decision}">{decision}</td>',
        *(f'<td class="n">{_number(value)}</td>' for value in (result.observed, result.threshold)),
        f'<td class="n">{result.rows}</td>',
        f"<td>{escape(result.reason)}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _server(report: GateReport) -> str:
    found = report.servability
    if found is None:
        return "<p>No gate asked for a server.</p>"
    if found.error:
        return f"<p>The model server: {escape(found.error)}</p>"
    return (
        f"<p>A model server loaded it and answered {found.golden_rows} golden rows; the largest difference is "
        f"{_number(found.max_abs_diff_grpc)} over gRPC and {_number(found.max_abs_diff_rest)} over REST. "
        f"{found.requests} one-row requests over gRPC took {_number(found.p50_latency_ms)} ms (median) and "
        f"{_number(found.p99_latency_ms)} ms (99th percentile).</p>"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
