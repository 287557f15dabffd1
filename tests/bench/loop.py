"""The loop as it runs in production, played over half a year in one process: weeks are scored, watched, and decided on.

Every step is the real stage: ``score``, ``feedback``, ``monitor`` and ``decide`` for each week, and the stages from
``training_set`` to ``register`` when a week says ``retrain``. Three things are left out. A version that passed becomes
champion without being published to a model server. The data were validated once for the year, and not day by day.
And of the gates only those on ROC AUC judge the first model: its window ends in the storms of June, in which no model
of the months before is calibrated, and there would be no loop to watch. Retrainings face every gate that is declared.

Time is the data's: a week is decided on when its labels are there, so the old champion scores the days until then.
"""

from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from airflow_ml.examples.flights.model import flights
from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.windows import Window
from airflow_ml.registry import champions
from airflow_ml.spec import Model, Platform
from airflow_ml.spec.gates import AtLeast, BeatsChampion
from tests.bench.base import run_chain, run_stage

FIRST = flights.model_copy(
    update={"gates": tuple(gate for gate in flights.gates if isinstance(gate, AtLeast | BeatsChampion))}
)
TRAINING = ("training_set", "train", "evaluate", "export", "gates", "register")


@dataclass
class Played:
    """What happened.

    Attributes:
        base: Where.
        decisions: One a week: window end, decision, reasons.
        trainings: One a training, the first included: its window, verdict and reasons, its version, and the first day
            that it scores.
    """

    base: Path
    decisions: list[dict[str, Any]] = field(default_factory=list)
    trainings: list[dict[str, Any]] = field(default_factory=list)

    def labelled(self, days: Window) -> Any:
        """Probabilities and labels of the flights of these days, as a pyarrow table."""
        feedback = LakeTable(self.base / "lake" / flights.name / "feedback")
        return feedback.read(days, columns=["probability", "label"]).drop_null()

    def versions(self, days: Window) -> list[int]:
        """Champions that scored these days."""
        predictions = LakeTable(self.base / "lake" / flights.name / "predictions")
        return sorted(set(predictions.read(days, columns=["model_version"])["model_version"].to_pylist()))


def play(base: Path, days: Window, first: Window) -> Played:
    """Train on ``first``, then score and watch the days, week by week.

    Args:
        base: With the tables of the year.
        days: To play; the last week may be shorter.
        first: Window of the first training.
    """
    played = Played(base)
    _train(played, FIRST, first, days.start)
    scored = days.start - timedelta(days=1)
    while scored < days.end:
        week_ends = played.decisions[-1]["window_end"] if played.decisions else days.start - timedelta(days=1)
        end = min(week_ends + timedelta(days=flights.monitoring.window), days.end)
        run_stage("score", base, Window.of(scored + timedelta(days=1), end))
        scored = end
        week = Window.of(week_ends + timedelta(days=1), end)
        decided = run_chain(("feedback", "monitor", "decide"), base, week)[-1].summary
        played.decisions.append(
            {"window_end": end, "decision": decided["decision"], "reasons": decided["reasons"], **decided["numbers"]}
        )
        print(f"  week to {end}: {decided['decision']}: {'; '.join(decided['reasons'])}", flush=True)
        if decided["decision"] == "retrain" and end < days.end:
            scored = min(end + timedelta(days=flights.label.lag), days.end)
            run_stage("score", base, Window.of(end + timedelta(days=1), scored))
            _train(played, flights, Window.model_validate(decided["window"]), scored + timedelta(days=1))
    return played


def _train(played: Played, model: Model, window: Window, scores_from: date) -> None:
    """Train, judge and register; a model that passed is the champion from then on."""
    version = int(run_chain(TRAINING, played.base, window, model)[-1].summary["version"])
    platform = Platform(base=str(played.base))
    release = champions.release_of(platform, flights.name, version)
    played.trainings.append(
        {
            "window": window,
            "version": version,
            "verdict": release.verdict,
            "reasons": list(release.reasons),
            "scores_from": scores_from if release.verdict == "passed" else None,
            "test_roc_auc": release.metrics.get("roc_auc"),
        }
    )
    print(f"  trained on {window}: version {version} {release.verdict} {'; '.join(release.reasons)}", flush=True)
    if release.verdict == "passed":
        champions.promote(platform, release, expected=release.previous_champion, reason="bench")
