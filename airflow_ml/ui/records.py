"""The page of a version: its gates, who approved it, its way to its traffic, and who was champion when."""

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow_ml.lifecycle.approvals import Answer
from airflow_ml.lifecycle.gates import GateReport
from airflow_ml.lifecycle.releases import REPORT_TITLES, Release
from airflow_ml.lifecycle.rollout import Rollout

if TYPE_CHECKING:
    from airflow_ml.hooks.releases import ReleaseRecord

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1c2024 }
table { border-collapse: collapse; width: 100%; margin-bottom: 1.5rem }
th, td { text-align: left; padding: .35rem .6rem; vertical-align: top; border-bottom: 1px solid #e3e6e9 }
th { border-bottom: 2px solid #c9ced4 } code { font-size: 85% }
"""

_REFRESH = '<meta http-equiv="refresh" content="5">'


def release_page(record: "ReleaseRecord", version: int) -> str:
    """HTML without scripts or outside references; it looks again by itself while the rollout goes on.

    Raises:
        NotReleasable: No such version.
    """
    release = record.release(version)
    rollout = record.rollout()
    mine = rollout if rollout is not None and rollout.version == version else None
    answers = [answer for answer in record.answers() if answer.version == version]
    title = f"{release.model}, version {version}"
    refresh = _REFRESH if mine is not None and mine.open else ""
    parts = [
        f"<h1>{escape(title)}: {release.verdict}</h1>",
        _about(release, record.traffic(version)),
        _reports(release),
        _rollout(mine),
        _answers(answers, release),
        _gates(record.report(release)),
        _table("Metrics of its test days", ("Metric", "Value"), ((k, _number(v)) for k, v in release.metrics.items())),
        _reigns(record),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{refresh}<title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _about(release: Release, share: float) -> str:
    return (
        f"<p>{share:.3g} of the traffic. Release <code>{escape(release.id)}</code>, trained up to "
        f"{release.trained_to or '–'}, MLflow run <code>{escape(release.mlflow_run_id or '–')}</code>.</p>"
    )


def _reports(release: Release) -> str:
    """Links relative to the page's own address."""
    links = (
        f'<a href="{release.version}/{quote(name, safe="")}">{escape(REPORT_TITLES.get(name, name))}</a>'
        for name in release.reports
    )
    listed = " · ".join(links)
    return f"<p>{listed}</p>" if listed else ""


def _rollout(rollout: Rollout | None) -> str:
    if rollout is None:
        return ""
    said = ", ".join(
        part
        for part in (
            f"begun {rollout.began:%Y-%m-%d %H:%M:%S} UTC",
            f"by {rollout.by}" if rollout.by else "",
            f"“{rollout.why}”" if rollout.why else "",
            f"back because: {rollout.reason}" if rollout.reason else "",
        )
        if part
    )
    steps = ", ".join(f"{share:.3g}" for share in rollout.plan.steps) or "none"
    heading = f"<h2>Rollout: {rollout.state}</h2><p>{escape(said)}. Canary steps: {steps}.</p>"
    looks = (
        (str(look.verdict), look.reason, ", ".join(f"{name} {_number(value)}" for name, value in look.numbers.items()))
        for look in rollout.judgements[:-11:-1]
    )
    return heading + _table("", ("Verdict", "Reason", "Numbers"), looks)


def _answers(answers: Iterable[Answer], release: Release) -> str:
    rows = (
        (str(answer), answer.user or "–", "this one" if answer.gate_report == release.gate_report.sha256 else "another")
        for answer in answers
    )
    return _table("Approval", ("Answer", "User of Airflow", "Gate report"), rows)


def _gates(report: GateReport) -> str:
    rows = (
        (gate.gate, "open" if gate.open else "closed", _number(gate.observed), _number(gate.threshold), gate.reason)
        for gate in report.gates
    )
    return _table("Gates", ("Gate", "Decision", "Observed", "Threshold", "Reason"), rows)


def _reigns(record: "ReleaseRecord") -> str:
    rows = (
        (
            str(reign.version),
            f"{reign.promoted_at:%Y-%m-%d %H:%M:%S} UTC",
            "–" if reign.previous is None else str(reign.previous),
            reign.reason,
        )
        for reign in record.history()[:20]
    )
    return _table("Champions", ("Version", "Since", "In place of", "Because"), rows)


def _table(title: str, names: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    return f"{f'<h2>{title}</h2>' if title else ''}<table><tr>{head}</tr>{body}</table>"


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:.4g}"
