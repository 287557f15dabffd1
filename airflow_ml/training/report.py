"""Reports of training and evaluation: one HTML file each, with everything inside."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from airflow_ml.lifecycle.evaluation import Evaluation, Metric, Slice

_STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #111827; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem }
p.sub { color: #6b7280; margin: .2rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem; text-align: right }
th { color: #6b7280; font-weight: 500; border-bottom: 1px solid #d1d5db } td { border-bottom: 1px solid #f3f4f6 }
th:first-child, td:first-child { text-align: left } small { color: #6b7280 }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1rem }
figure { margin: 0 } figcaption { color: #6b7280 } svg { max-width: 100%; height: auto }
.range { position: relative; width: 180px; height: .9rem; background: #f3f4f6; display: inline-block }
.range i { position: absolute; top: .35rem; height: .2rem; background: #93c5fd }
.range b { position: absolute; top: .1rem; width: .2rem; height: .7rem; background: #2563eb }
.good { color: #15803d } .bad { color: #b91c1c }
"""

_NAMES = {
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "ece": "Calibration error (ECE)",
    "precision": "Precision",
    "recall": "Recall",
}
_BETTER_HIGH = ("roc_auc", "pr_auc", "precision", "recall")


def evaluation_page(evaluation: Evaluation, title: str, about: Sequence[str], plots: Iterable[tuple[str, str]]) -> str:
    """The report of an evaluation.

    Args:
        evaluation: What was found.
        title: Heading.
        about: Lines below it.
        plots: Caption and SVG.
    """
    parts = [
        "<h2>Metrics</h2>",
        _metrics(evaluation),
        f"<p class=sub>In brackets: 95 % bootstrap interval. Decisions at threshold {evaluation.threshold:g}.</p>",
        "<h2>Curves</h2>",
        _plots(plots),
        "<h2>Calibration</h2>",
        _calibration(evaluation),
    ]
    for column in dict.fromkeys(found.column for found in evaluation.slices):
        parts.append(f"<h2>By {escape(column)}</h2>")
        parts.append(_slices([found for found in evaluation.slices if found.column == column]))
    return _page(title, about, parts)


def training_page(
    title: str, about: Sequence[str], history: Sequence[Mapping[str, Any]], plots: Iterable[tuple[str, str]]
) -> str:
    """The report of a training: the curve, and a row an epoch."""
    names = list(dict.fromkeys(name for entry in history for name in entry if name != "best"))
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_cell(entry.get(name))}</td>" for name in names) + "</tr>" for entry in history
    )
    table = f"<table><tr>{head}</tr>{rows}</table>"
    return _page(title, about, ["<h2>Learning curve</h2>", _plots(plots), "<h2>Epochs</h2>", table])


def _page(title: str, about: Sequence[str], parts: Iterable[str]) -> str:
    lines = "".join(f"<p class=sub>{escape(line)}</p>" for line in about)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<body><h1>{escape(title)}</h1>{lines}{''.join(parts)}</body></html>"
    )


def _metrics(evaluation: Evaluation) -> str:
    champion = evaluation.champion
    head = "<tr><th>Metric</th><th>Candidate</th>"
    if champion is not None:
        head += f"<th>Champion, version {champion.version}</th><th>Difference</th>"
    rows = []
    for name, text in _NAMES.items():
        mine = evaluation.metrics[name]
        row = f"<tr><td>{text}</td><td>{_metric(mine)}</td>"
        if champion is not None:
            theirs = champion.metrics[name]
            row += f"<td>{_metric(theirs)}</td><td>{_difference(name, mine, theirs)}</td>"
        rows.append(row + "</tr>")
    return f"<table>{head}</tr>{''.join(rows)}</table>"


def _metric(metric: Metric) -> str:
    if metric.value is None:
        return f"n/a <small>{escape(metric.reason)}</small>"
    if metric.low is None or metric.high is None:
        return f"{metric.value:.4f}"
    return f"{metric.value:.4f} <small>[{metric.low:.4f}, {metric.high:.4f}]</small>"


def _difference(name: str, mine: Metric, theirs: Metric) -> str:
    if mine.value is None or theirs.value is None:
        return "n/a"
    gap = mine.value - theirs.value
    kind = "good" if (gap > 0) == (name in _BETTER_HIGH) else "bad"
    return f"<span class={kind}>{gap:+.4f}</span>" if gap else "0"


def _calibration(evaluation: Evaluation) -> str:
    rows = "".join(
        f"<tr><td>{found.low:.4f} – {found.high:.4f}</td><td>{found.rows:,}</td><td>{_cell(found.predicted)}</td>"
        f"<td>{_cell(found.observed)}</td></tr>"
        for found in evaluation.calibration
    )
    return f"<table><tr><th>Probability</th><th>Rows</th><th>Predicted</th><th>Observed</th></tr>{rows}</table>"


def _slices(slices: Sequence[Slice]) -> str:
    shown = ("roc_auc", "pr_auc", "log_loss", "ece")
    head = "".join(f"<th>{_NAMES[name]}</th>" for name in shown)
    rows = "".join(
        f"<tr><td>{escape(found.value) or '<small>missing</small>'}</td><td>{found.rows:,}</td>"
        f"<td>{_range(found.metrics['roc_auc'])}</td>"
        + "".join(f"<td>{_metric(found.metrics[name])}</td>" for name in shown)
        + "</tr>"
        for found in slices
    )
    return f"<table><tr><th>Value</th><th>Rows</th><th>ROC AUC, 0.5 to 1</th>{head}</tr>{rows}</table>"


def _range(metric: Metric) -> str:
    """The interval as a bar on an axis from 0.5 to 1."""
    if metric.value is None or metric.low is None or metric.high is None:
        return ""
    low, value, high = (min(100.0, max(0.0, (v - 0.5) * 200)) for v in (metric.low, metric.value, metric.high))
    return (
        f'<span class=range><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<b style="left:{value:.1f}%"></b></span>'
    )


def _plots(plots: Iterable[tuple[str, str]]) -> str:
    figures = "".join(f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for caption, svg in plots)
    return f"<div class=plots>{figures}</div>"


def _cell(value: Any) -> str:
    if value is None:
        return "n/a"
    return f"{value:,.4g}" if isinstance(value, float) else escape(str(value))
