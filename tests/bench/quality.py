"""Quality: our network against LightGBM, and a frozen model against models that are trained again, by month.

For each month from July to December both learn from the 180 days whose labels are known at its first midnight, on the
same columns and the same split of days: train, validation for early stopping, and test. Both are then judged on every
labelled flight of the month, which neither has seen. The network goes through the stages ``training_set``, ``train``
and ``evaluate`` with the declaration's own parameters; LightGBM has three settings to choose from by its validation.

The same months are then flown in two more ways: *frozen* with the model of July, and by the *loop* of
`tests.bench.loop`, which starts with the model of July, trains again when a week's drift says so, and keeps the
champion when the gates refuse the new model. Loop and frozen are judged on the same flights.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from airflow_ml.lifecycle.windows import Window
from tests.bench.base import fresh_base
from tests.bench.contestants import (
    LIGHTGBM,
    SETTINGS,
    Trained,
    auc,
    labelled,
    lightgbm_scores,
    month_of,
    network_scores,
    train_network,
    training_window,
)
from tests.bench.loop import Played, play
from tests.bench.report import Cell, Report, Table

MONTHS = (7, 8, 9, 10, 11, 12)


def run() -> Report:
    """Train both for every month, judge them on it, then play the loop."""
    from airflow_ml.serving.engines import tensorflow

    tensorflow()  # before torch, because this process will run stages of both
    rows: dict[int, dict[str, Any]] = {}
    with fresh_base() as base:
        began = time.perf_counter()
        frozen = train_network(base, training_window(month_of(MONTHS[0]).start))
        for month in MONTHS:
            rows[month] = _judged(base, month, frozen)
        months_s, began = time.perf_counter() - began, time.perf_counter()
        played = play(base, Window.of(month_of(MONTHS[0]).start, month_of(MONTHS[-1]).end), frozen.window)
        loop_s = time.perf_counter() - began
        for month in MONTHS:
            _add_loop(rows[month], month, played)
    details = {
        "months": rows,
        "lightgbm": [LIGHTGBM | setting for setting in SETTINGS],
        "decisions": played.decisions,
        "trainings": played.trainings,
        "months_s": months_s,
        "loop_s": loop_s,
    }
    seconds = f"{months_s:.0f} s for the months, {loop_s:.0f} s for the loop's {len(played.decisions)} weeks"
    return Report("quality", (months_table(rows), decided_table(played)), (*_notes(rows), seconds), details)


def _judged(base: Path, month: int, frozen: Trained) -> dict[str, Any]:
    """Both contestants of a month, and July's network, on the month's flights."""
    days = month_of(month)
    began = time.perf_counter()
    trained = frozen if month == MONTHS[0] else train_network(base, training_window(days.start))
    network_s, began = time.perf_counter() - began, time.perf_counter()
    flown, labels = labelled(base, days)
    row = {
        "flights": len(labels),
        "late": float(labels.mean()),
        "lightgbm": auc(labels, lightgbm_scores(trained, flown)),
        "network": auc(labels, network_scores(trained, flown)),
        "frozen": auc(labels, network_scores(frozen, flown)),
        "window": str(trained.window),
        "test": trained.evaluate.metrics,
        "validation": trained.train.metrics,
        "network_s": network_s,
        "lightgbm_s": time.perf_counter() - began,
    }
    print(f"  {days.start:%B}: network {network_s:.0f} s, LightGBM {row['lightgbm_s']:.0f} s", flush=True)
    return row


def _add_loop(row: dict[str, Any], month: int, played: Played) -> None:
    """What the champions of the loop made of the month's flights, and which retrainings it ended in."""
    days = month_of(month)
    found = played.labelled(days)
    if len(found) != row["flights"]:
        raise ValueError(f"the loop judged {len(found)} flights of {days}, the others {row['flights']}")
    row["loop"] = auc(found["label"].to_numpy().astype(np.int8), found["probability"].to_numpy())
    row["versions"] = ", ".join(f"v{version}" for version in played.versions(days))
    row["retrained"] = ", ".join(
        f"{training['window'].end:%d %B}: v{training['version']} {training['verdict']}"
        for training in played.trainings[1:]
        if days.start <= training["window"].end <= days.end
    )


def months_table(rows: dict[int, dict[str, Any]]) -> Table:
    """A line a month, and their mean from August on."""
    lines: list[tuple[Cell, ...]] = []
    for month, row in rows.items():
        judged = (row["lightgbm"], row["network"], row["network"] - row["lightgbm"])
        flown = (row["frozen"], row["loop"], row["loop"] - row["frozen"]) if month != MONTHS[0] else (None,) * 3
        name, late = f"{month_of(month).start:%B}", f"{row['late']:.1%}"
        lines.append((name, row["flights"], late, *judged, *flown, row["versions"], row["retrained"] or None))
    later = [row for month, row in rows.items() if month != MONTHS[0]]
    lightgbm, network, frozen, loop = (
        sum(row[name] for row in later) / len(later) for name in ("lightgbm", "network", "frozen", "loop")
    )
    means = (lightgbm, network, network - lightgbm, frozen, loop, loop - frozen)
    lines.append(("mean from August", None, None, *means, None, None))
    return Table(
        "ROC AUC by month of 2013 (goal: the network within .005 of LightGBM each month)",
        (
            "month",
            "flights",
            "late",
            "LightGBM",
            "network",
            "difference",
            "frozen since July",
            "loop",
            "loop less frozen",
            "loop's champions",
            "loop retrained",
        ),
        tuple(lines),
    )


def decided_table(played: Played) -> Table:
    """The weeks in which something had drifted."""
    versions = {training["window"].end: training for training in played.trainings[1:]}
    lines: list[tuple[Cell, ...]] = []
    for week in played.decisions:
        if week["decision"] == "healthy":
            continue
        training = versions.get(week["window_end"])
        outcome = f"v{training['version']} {training['verdict']}" if training else None
        lines.append(
            (f"{week['window_end']:%d %B}", f"{week['drifted_share']:.0%}", week["roc_auc"], week["decision"], outcome)
        )
    return Table(
        f"The loop's weeks that drifted, of {len(played.decisions)}",
        ("week to", "drifted inputs", "ROC AUC", "verdict", "retraining"),
        tuple(lines),
    )


def _notes(rows: dict[int, dict[str, Any]]) -> tuple[str, ...]:
    worst = min(row["network"] - row["lightgbm"] for row in rows.values())
    return (
        "LightGBM and network of a month learn from the 180 days whose labels are known at its first midnight",
        f"network less LightGBM: at worst {worst:+.4f}",
    )
