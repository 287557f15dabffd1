"""Quality: our network against LightGBM, and a frozen model against models that are trained again, by month.

For each month from July to December both learn from the 180 days whose labels are known at its first midnight, on the
same columns and the same split of days: train, validation for early stopping, and test. Both are then judged on every
labelled flight of the month, which neither has seen. The network goes through the stages ``training_set``, ``train``
and ``evaluate`` with the declaration's own parameters; LightGBM has three settings to choose from by its validation.

From July to the end of the year the same months are then flown three ways: *frozen* with the model of July, *monthly*
with each month's own model, and by the *loop* of `tests.bench.loop`, which trains again when a week's drift says so and
keeps the champion when the gates refuse the new model.
"""

import time
from typing import Any

import numpy as np

from airflow_ml.lifecycle.windows import Window
from tests.bench.base import fresh_base
from tests.bench.contestants import (
    LIGHTGBM,
    SETTINGS,
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
            days = month_of(month)
            trained = train_network(base, training_window(days.start)) if month != MONTHS[0] else frozen
            network_s, began = time.perf_counter() - began, time.perf_counter()
            flown, labels = labelled(base, days)
            rows[month] = {
                "flights": len(labels),
                "late": float(labels.mean()),
                "lightgbm": auc(labels, lightgbm_scores(trained, flown)),
                "network": auc(labels, network_scores(trained, flown)),
                "frozen": auc(labels, network_scores(frozen, flown)),
                "window": str(trained.window),
                "test": trained.evaluate.metrics,
                "epochs": trained.train.metrics["epochs"],
                "network_s": network_s,
                "lightgbm_s": time.perf_counter() - began,
            }
            began = time.perf_counter()
            print(
                f"  {days.start:%B}: network {network_s:.0f} s, LightGBM {rows[month]['lightgbm_s']:.0f} s", flush=True
            )
        played = play(base, Window.of(month_of(MONTHS[0]).start, month_of(MONTHS[-1]).end), frozen.window)
        for month in MONTHS:
            found = played.labelled(month_of(month))
            rows[month]["loop"] = auc(found["label"].to_numpy().astype(np.int8), found["probability"].to_numpy())
            rows[month]["versions"] = ", ".join(f"v{version}" for version in played.versions(month_of(month)))
    details = {
        "months": rows,
        "lightgbm": [LIGHTGBM | setting for setting in SETTINGS],
        "decisions": played.decisions,
        "trainings": played.trainings,
    }
    return Report("quality", (_table(rows),), _notes(rows, played), details)


def _table(rows: dict[int, dict[str, Any]]) -> Table:
    lines: list[tuple[Cell, ...]] = []
    for month, row in rows.items():
        judged = [row[name] for name in ("lightgbm", "network")]
        flown = [row[name] for name in ("frozen", "network", "loop")] if month != MONTHS[0] else [None] * 3
        name, late = f"{month_of(month).start:%B}", f"{row['late']:.1%}"
        lines.append((name, row["flights"], late, *judged, judged[1] - judged[0], *flown, row["versions"]))
    later = [row for month, row in rows.items() if month != MONTHS[0]]

    def mean(name: str) -> float:
        return float(sum(row[name] for row in later)) / len(later)

    difference = mean("network") - mean("lightgbm")
    flown_mean = (mean("frozen"), mean("network"), mean("loop"))
    lines.append(("mean from August", None, None, mean("lightgbm"), mean("network"), difference, *flown_mean, None))
    return Table(
        "ROC AUC by month of 2013 (goal: the network within .005 of LightGBM each month)",
        (
            "month",
            "flights",
            "late",
            "LightGBM",
            "network",
            "difference",
            "frozen",
            "monthly",
            "loop",
            "loop's versions",
        ),
        tuple(lines),
    )


def _notes(rows: dict[int, dict[str, Any]], played: Played) -> tuple[str, ...]:
    worst = min(row["network"] - row["lightgbm"] for row in rows.values())
    trained = [
        f"{training['window']} v{training['version']} {training['verdict']}"
        + (f" from {training['scores_from']}" if training["scores_from"] else "")
        for training in played.trainings
    ]
    return (
        "a month's models learn from the 180 days whose labels are known at its first midnight",
        f"network less LightGBM: at worst {worst:+.4f}",
        f"trainings of the loop: {'; '.join(trained)}",
    )
