"""What the demo shows at its end: a table, champions, AUC by week, and the same as JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from airflow_ml.gateway.load import Traffic
from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.rollout import CANARY
from airflow_ml.lifecycle.windows import Window

_WEEK = "  {:24} {:>7} {:>8} {:>6} {:>9} {:>6} {:>8}  {}"


@dataclass
class StageTime:
    """One stage of the loop: seconds that its tasks took, and rows that they handled."""

    name: str
    wall_s: float
    rows: int


@dataclass(frozen=True)
class WatchedWeek:
    """What monitoring saw in one window, and what was decided.

    Attributes:
        window: Days.
        verdict: Of `lifecycle.retraining`.
        model_version: Whose predictions they were.
        drifted_share: Of the watched columns.
        positive_rate: Share of late flights among the labelled.
        prediction_mean: Mean probability.
        roc_auc: On the labelled rows.
        log_loss: On the labelled rows.
    """

    window: str
    verdict: str
    model_version: int | None
    drifted_share: float | None
    positive_rate: float | None
    prediction_mean: float | None
    roc_auc: float | None
    log_loss: float | None


@dataclass
class Summary:
    """The demo's result.

    Attributes:
        stages: Tasks that ran side by side overlap, so their sum can be more than `wall_s`.
        problems: Everything in the loop that did not happen.
        busy: Begin and end of what ran, by the clock; not in the JSON.
    """

    wall_s: float = 0.0
    stages: list[StageTime] = field(default_factory=list)
    nights_scored: int = 0
    auc_by_week: dict[str, float | None] = field(default_factory=dict)
    watched: list[WatchedWeek] = field(default_factory=list)
    drift: dict[str, Any] = field(default_factory=dict)
    retraining: dict[str, Any] = field(default_factory=dict)
    online: dict[str, Any] = field(default_factory=dict)
    champions: list[dict[str, Any]] = field(default_factory=list)
    online_prediction: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    busy: list[tuple[float, float]] = field(default_factory=list)

    def idle_s(self, started_s: float) -> float:
        """Seconds of the wall time in which neither Airflow started nor anything of the loop ran."""
        return round(max(0.0, self.wall_s - started_s - covered(self.busy)), 1)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {name: fact for name, fact in asdict(self).items() if name != "busy"}
        path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that are in at least one of the spans: those that overlap count once."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def find_problems(summary: Summary, nights: int) -> list[str]:
    """Everything in the loop that did not happen; empty when all did."""
    judged = [value for value in summary.auc_by_week.values() if value is not None]
    checks = {
        f"{summary.nights_scored} of {nights} nights were scored": summary.nights_scored == nights,
        "no week could be judged": bool(judged),
        "no drift verdict was reached": summary.drift.get("verdict") == "retrain",
        "no retraining ended in a promotion or a refusal": summary.retraining.get("outcome")
        in {"promoted", "rejected", "rolled back"},
        f"requests failed while a release was on its way: {summary.online.get('failed')}": not summary.online.get(
            "failed"
        ),
        "nobody was answered by the canary": not summary.online or CANARY in summary.online["arms"],
        "there is no champion": bool(summary.champions),
        "the online prediction was not answered": "probability" in summary.online_prediction,
    }
    return [problem for problem, good in checks.items() if not good]


def arms(traffic: Traffic, rollout: Mapping[str, Any]) -> dict[str, Any]:
    """What live requests got while a release was on its way.

    Args:
        traffic: Of all that asked.
        rollout: What the stage says of its end.
    """
    return {
        "requests": traffic.requests,
        "failed": dict(traffic.failed),
        "arms": dict(sorted(traffic.answered.items())),
        "versions": {str(version): rows for version, rows in sorted(traffic.versions.items())},
        "answered by the version before": traffic.fallbacks.total(),
        "p50 ms": round(traffic.quantile_ms(0.5), 1),
        "p99 ms": round(traffic.quantile_ms(0.99), 1),
        "rollout": rollout.get("state"),
        "verdict": rollout.get("verdict_reason"),
    }


def auc_by_week(feedback: LakeTable, window: Window) -> dict[str, float | None]:
    """ROC AUC of the nightly predictions, for each week of the window; None for one without labels or of one class.

    Args:
        feedback: Predictions joined with labels.
        window: Nights that were scored.
    """
    from sklearn.metrics import roc_auc_score

    rows = feedback.read(window, columns=["ds", "probability", "label"]).drop_null()
    days, probability, label = (rows[name].to_pylist() for name in ("ds", "probability", "label"))
    weeks: dict[date, tuple[list[float], list[bool]]] = {
        window.start + timedelta(days=offset): ([], []) for offset in range(0, len(window), 7)
    }
    for day, p, y in zip(days, probability, label, strict=True):
        start = window.start + timedelta(days=(day - window.start).days // 7 * 7)
        weeks[start][0].append(p)
        weeks[start][1].append(y)
    return {
        str(start): round(float(roc_auc_score(y, p)), 4) if len(set(y)) == 2 else None
        for start, (p, y) in sorted(weeks.items())
    }


def render(summary: Summary) -> str:
    """The summary as text for a terminal."""
    lines = ["", f"The loop took {summary.wall_s:.0f} s; data land while a model trains, so rows overlap", ""]
    lines += [f"{'stage':44} {'wall s':>8} {'rows':>10}"]
    lines += [f"{stage.name:44} {stage.wall_s:8.1f} {stage.rows:10}" for stage in summary.stages]
    lines += ["", f"nights scored: {summary.nights_scored}", "", "AUC of the nightly predictions, by week"]
    lines += [f"  {week}  {'not judged' if auc is None else f'{auc:.4f}'}" for week, auc in summary.auc_by_week.items()]
    lines += ["", "what monitoring saw"]
    lines += [_WEEK.format("window", "version", "drifted", "late", "predicted", "AUC", "log-loss", "verdict")]
    lines += [_week(week) for week in summary.watched]
    lines += ["", *_section("drift", summary.drift), *_section("retraining", summary.retraining)]
    lines += _section("live requests while it was released", summary.online)
    lines += ["champions", *(f"  {json.dumps(champion)}" for champion in summary.champions), ""]
    lines += _section("online prediction", summary.online_prediction)
    lines += ["what did not happen:", *(f"  {problem}" for problem in summary.problems)] if summary.problems else []
    return "\n".join(lines)


def _week(week: WatchedWeek) -> str:
    shares = [_shown(share, ".0%") for share in (week.drifted_share, week.positive_rate, week.prediction_mean)]
    judged = [_shown(metric, ".3f") for metric in (week.roc_auc, week.log_loss)]
    return _WEEK.format(week.window, week.model_version or "-", *shares, *judged, week.verdict)


def _shown(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


def _section(title: str, facts: dict[str, Any]) -> Sequence[str]:
    return [title, *_facts(facts), ""]


def _facts(facts: dict[str, Any]) -> Iterable[str]:
    for key, value in facts.items():
        if isinstance(value, list):
            yield f"  {key}:"
            yield from (f"    - {item}" for item in value)
        else:
            yield f"  {key}: {value}"
