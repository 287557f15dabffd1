"""The messages that a person gets: a retraining started, the input is broken, a rollout went back. Text in, text out.

Everything else that monitoring decides waits in the ledger until somebody looks; a message for each of it would teach
people to delete them.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_ml.spec.base import Frozen

LONGEST_SUBJECT = 120


class Message(Frozen):
    """An e-mail.

    Attributes:
        subject: One line, at most 120 characters.
        text: The body as plain text.
        html: The body as HTML; everything that came from data is escaped.
    """

    subject: str
    text: str
    html: str


def of_decision(model: str, decision: Mapping[str, Any], links: Mapping[str, str] | None = None) -> Message | None:
    """The message that a decision calls for; None when it calls for none, or when the window before said the same.

    Args:
        model: Name.
        decision: Summary of the stage ``decide``.
        links: Title to address: the drift report, the training run.
    """
    given = {title: link for title, link in (links or {}).items() if link}
    evidence = decision.get("evidence")
    facts: dict[str, Any] = {
        "model": model,
        "window": _days(decision.get("monitored")),
        "version": decision.get("model_version"),
        "reasons": tuple(decision.get("reasons") or ()),
        "numbers": decision.get("numbers") or {},
        "links": given if "Report" in given or not evidence else {"Report": str(evidence), **given},
    }
    if decision.get("decision") == "retrain":
        return retraining_started(**facts, run_id=str(decision["run_id"]), training=_days(decision.get("window")))
    if decision.get("decision") != "broken_input" or decision.get("news") == []:
        return None
    return input_broken(**facts)


def of_rollout(model: str, rollout: Mapping[str, Any], links: Mapping[str, str] | None = None) -> Message | None:
    """The message that a rollout calls for: it went back; None while it goes on, or was kept.

    Whoever asks for the way back knows of it; who waits for the rollout is told.

    Args:
        model: Name.
        rollout: Summary of the stage ``rollout``.
        links: Title to address: the task's log.
    """
    if rollout.get("state") != "rolled_back" or rollout.get("mode") == "rollback":
        return None
    version, stable = rollout.get("version"), rollout.get("stable")
    by, why = rollout.get("by"), rollout.get("why")
    answers = "nobody answers" if stable is None else f"version {stable} answers all requests"
    return _message(
        f"[{model}] version {version} was rolled back: {rollout.get('reason')}",
        f"The rollout of version {version} of {model} was rolled back; {answers}.",
        {"Model": _version(model, version), "Answers now": answers}
        | ({"Begun by": f"{by}: {why}" if why else str(by)} if by else {}),
        (str(rollout.get("reason")),),
        rollout.get("numbers") or {},
        {title: link for title, link in (links or {}).items() if link},
        (
            "Nothing for the traffic: no request waits for you.",
            f"See what the record says: airflow-ml status {model}.",
            f"It is not tried again by itself; by hand: version {version} in the form of {model}_release.",
        ),
    )


def retraining_started(
    model: str,
    window: str,
    version: int | None,
    reasons: Sequence[str],
    numbers: Mapping[str, float | None],
    links: Mapping[str, str],
    run_id: str,
    training: str,
) -> Message:
    """The message “Retraining started, because …”.

    Args:
        model: Name.
        window: Days that were looked at.
        version: Version whose predictions were looked at.
        reasons: Why, the most important first.
        numbers: Evidence.
        links: Title to address: the drift report, the training run.
        run_id: Run of the training DAG.
        training: Days that it trains on.
    """
    return _message(
        f"[{model}] retraining started, because {_first(reasons, 'the window drifted')}",
        f"A retraining of {model} has started: run {run_id} of {model}_training, on {training}.",
        {"Model": _version(model, version), "Window": window, "Training run": run_id, "Trains on": training},
        reasons,
        numbers,
        links,
        (
            "Nothing now. If the gates pass, the run releases the new version; if not, the champion stays.",
            "Either way the run's note says what happened, and why.",
            f"To stop it: mark run {run_id} as failed. Its window is not retrained again by itself.",
        ),
    )


def input_broken(
    model: str,
    window: str,
    version: int | None,
    reasons: Sequence[str],
    numbers: Mapping[str, float | None],
    links: Mapping[str, str],
    where: str = "",
    remedy: str = "",
) -> Message:
    """The message “Input is broken, a person must look”.

    Args:
        model: Name.
        window: Days that were looked at.
        version: Version whose predictions were looked at, if any.
        reasons: What is broken.
        numbers: Evidence.
        links: Title to address: the drift or anomalies report, the task's log.
        where: File, row or partition, if one is to blame.
        remedy: What the stage that refused it advises.
    """
    look = "Look at the report, and at the anomalies of the validation of these days."
    return _message(
        f"[{model}] input is broken, a person must look: {_first(reasons, 'see the report')}",
        f"The input of {model} is broken. Nothing is retrained on it.",
        {"Model": _version(model, version), "Window": window} | ({"Where": where} if where else {}),
        reasons,
        numbers,
        links,
        (
            *([f"{remedy[0].upper()}{remedy[1:]}."] if remedy else []),
            *([look] if "Report" in links else []),
            f"When the files are back, clear {model}_data, {model}_scoring and {model}_monitoring of these days.",
            "If the data is right and the declaration is not, change the schema's checks, and clear the same runs.",
        ),
    )


def _message(
    subject: str,
    lead: str,
    facts: Mapping[str, str],
    reasons: Sequence[str],
    numbers: Mapping[str, float | None],
    links: Mapping[str, str],
    todo: Sequence[str],
) -> Message:
    evidence = {name.replace("_", " "): _number(value) for name, value in numbers.items()}
    text = [lead, "", *(f"{name}: {value}" for name, value in facts.items())]
    for title, lines in {"Because": list(reasons), "Evidence": [f"{k}: {v}" for k, v in evidence.items()]}.items():
        if lines:
            text += ["", title, *(f"- {line}" for line in lines)]
    text += ["", "What to do", *(f"- {line}" for line in todo)]
    text += ["", *(f"{title}: {link}" for title, link in links.items())] if links else []
    return Message(
        subject=_one_line(subject), text="\n".join(text) + "\n", html=_html(lead, facts, reasons, evidence, links, todo)
    )


def _html(
    lead: str,
    facts: Mapping[str, str],
    reasons: Sequence[str],
    evidence: Mapping[str, str],
    links: Mapping[str, str],
    todo: Sequence[str],
) -> str:
    parts = [f"<p><strong>{_escape(lead)}</strong></p>", _table(facts)]
    if reasons:
        parts.append(f"<h3>Because</h3>{_list(reasons)}")
    if evidence:
        parts.append(f"<h3>Evidence</h3>{_table(evidence)}")
    parts.append(f"<h3>What to do</h3>{_list(todo)}")
    for title, link in links.items():
        address = _escape(link)
        # A mail client opens addresses, and neither paths nor what else a link may claim to be.
        shown = f'<a href="{address}">{address}</a>' if link.startswith(("http://", "https://")) else address
        parts.append(f"<p>{_escape(title)}: {shown}</p>")
    return "".join(parts)


def _table(rows: Mapping[str, str]) -> str:
    cells = (f'<tr><th align="left">{_escape(name)}</th><td>{_escape(value)}</td></tr>' for name, value in rows.items())
    return f'<table cellpadding="4">{"".join(cells)}</table>'


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_escape(line)}</li>' for line in lines)}</ul>"


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _one_line(subject: str) -> str:
    """No line breaks, which would begin another header, and not too long for a list of mails."""
    line = " ".join(subject.split())
    return line if len(line) <= LONGEST_SUBJECT else f"{line[: LONGEST_SUBJECT - 1].rstrip()}…"


def _first(reasons: Sequence[str], otherwise: str) -> str:
    return reasons[0] if reasons else otherwise


def _version(model: str, version: int | None) -> str:
    return model if version is None else f"{model}, version {version}"


def _days(window: Mapping[str, str] | None) -> str:
    if window is None:
        return "unknown"
    return str(window["from"]) if window["from"] == window["to"] else f"{window['from']}..{window['to']}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
