"""What a person is shown who has to approve a release: Markdown for Airflow's page of required actions."""

from collections.abc import Mapping
from datetime import datetime

from airflow_ml.lifecycle.gates import GateReport, GateResult
from airflow_ml.lifecycle.releases import Release
from airflow_ml.spec.approval import Approval


def subject_of(release: Release) -> str:
    """One line."""
    return f"Release {release.model} version {release.version}?"


def body_of(
    release: Release,
    report: GateReport,
    approval: Approval,
    deadline: datetime,
    links: Mapping[str, str],
    champion: Release | None = None,
    canary: str = "",
) -> str:
    """The evidence.

    Args:
        release: That asks.
        report: Its gate report; the answer will be bound to it.
        approval: As declared.
        deadline: Until when it is asked.
        links: Text to address: pages that tell more.
        champion: Who rules now.
        canary: What was seen of it under traffic so far.
    """
    versus = "There is no champion yet" if champion is None else f"Version {champion.version} is champion"
    parts = [
        f"**{release.model} version {release.version}** asks for {_more(approval)}. {versus}.",
        canary,
        _table(("Gate", "Decision", "Observed", "Threshold", "Rows"), [_gate(gate) for gate in report.gates]),
        _metrics(release, champion),
        " · ".join(f"[{text}]({address})" for text, address in links.items()),
        _terms(release, approval, deadline),
    ]
    return "\n\n".join(part for part in parts if part)


def _terms(release: Release, approval: Approval, deadline: datetime) -> str:
    otherwise = "approved" if approval.otherwise == "approve" else "rejected"
    report = release.gate_report.sha256[:12]
    return (
        f"Without an answer by {deadline:%Y-%m-%d %H:%M} UTC it is {otherwise}. "
        f"The answer is bound to gate report `{report}`."
    )


def _more(approval: Approval) -> str:
    return f"more than {approval.above:.0%} of the traffic" if approval.above else "its traffic"


def _metrics(release: Release, champion: Release | None) -> str:
    if not release.metrics:
        return ""
    names = ("Metric", f"Version {release.version}", *(() if champion is None else (f"Version {champion.version}",)))
    theirs = {} if champion is None else champion.metrics
    rows = [
        (name, _number(value), *(() if champion is None else (_number(theirs.get(name)),)))
        for name, value in release.metrics.items()
    ]
    said = (
        "" if champion is None else "\n\nEach on the test days of its own training; the gates compare on the same rows."
    )
    return _table(names, rows) + said


def _gate(gate: GateResult) -> tuple[str, ...]:
    decision = "open" if gate.open else "closed"
    return f"`{gate.gate}`", decision, _number(gate.observed), _number(gate.threshold), str(gate.rows)


def _table(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [names, ("---",) * len(names), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
