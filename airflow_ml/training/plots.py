"""Plots as SVG text, to stand inside a page: no file, no script, nothing from elsewhere."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.evaluation import Bin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from airflow_ml.training.metrics import Curves

CANDIDATE = "#2563eb"
CHAMPION = "#d97706"
_GREY = "#9ca3af"


def roc(candidate: "Curves", champion: "Curves | None") -> str:
    """ROC curves."""
    figure, axes = _axes("False positive rate", "True positive rate")
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":")
    for name, color, found in _pair(candidate, champion):
        axes.plot(found.false_positive_rate, found.true_positive_rate, color=color, label=name)
    return _svg(figure, axes)


def precision_recall(candidate: "Curves", champion: "Curves | None", positive_share: float) -> str:
    """Precision-recall curves; the dotted line is what chance would reach."""
    figure, axes = _axes("Recall", "Precision")
    axes.axhline(positive_share, color=_GREY, linewidth=1, linestyle=":")
    for name, color, found in _pair(candidate, champion):
        axes.plot(found.true_positive_rate[1:], found.precision, color=color, label=name)
    return _svg(figure, axes)


def calibration(candidate: Sequence[Bin], champion: Sequence[Bin] | None) -> str:
    """Observed share against predicted probability; on the dotted line a model means what it says."""
    figure, axes = _axes("Predicted probability", "Observed share")
    for name, color, bins in _pair(candidate, champion):
        points = [(bin_.predicted, bin_.observed) for bin_ in bins if bin_.rows]
        axes.plot(*zip(*points, strict=True), color=color, marker="o", markersize=4, label=name)
    top = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.set(xlim=(0, top), ylim=(0, top))
    axes.plot([0, top], [0, top], color=_GREY, linewidth=1, linestyle=":")
    return _svg(figure, axes)


def scores(negative: Any, positive: Any) -> str:
    """Histograms of the probability for the two classes.

    Args:
        negative: [n] probabilities of rows whose label is 0.
        positive: [n] of rows whose label is 1.
    """
    figure, axes = _axes("Predicted probability", "Share of the class")
    for name, color, values in (("negative", _GREY, negative), ("positive", CANDIDATE, positive)):
        weights = [1 / max(1, len(values))] * len(values)
        axes.hist(values, bins=40, range=(0, 1), weights=weights, color=color, alpha=0.6, label=name)
    return _svg(figure, axes)


def learning(history: Sequence[Mapping[str, Any]], best_epoch: int) -> str:
    """Losses by epoch, and the validation ROC AUC on an axis of its own."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _axes("Epoch", "Log loss", width=7.0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for name, label, color in (("train_loss", "training", _GREY), ("validation_loss", "validation", CANDIDATE)):
        points = [(entry["epoch"], entry[name]) for entry in history if entry.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, marker="o", markersize=3, label=f"{label} loss")
    points = [(e["epoch"], e["validation_roc_auc"]) for e in history if e.get("validation_roc_auc") is not None]
    if points:
        right = axes.twinx()
        right.plot(*zip(*points, strict=True), color=CHAMPION, marker="o", markersize=3)
        right.set_ylabel("Validation ROC AUC", color=CHAMPION)
        right.spines["top"].set_visible(False)
    axes.axvline(best_epoch, color=_GREY, linewidth=1, linestyle=":", label="best epoch")
    return _svg(figure, axes)


def _pair(candidate: Any, champion: Any) -> list[tuple[str, str, Any]]:
    found = [("candidate", CANDIDATE, candidate)]
    return found if champion is None else [("champion", CHAMPION, champion), *found]


def _axes(x: str, y: str, width: float = 4.4) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    # A figure of its own, without pyplot: no global state, no display.
    figure = Figure(figsize=(width, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: "Figure", axes: "Axes") -> str:
    import matplotlib

    axes.legend(frameon=False, fontsize=9)
    buffer = io.StringIO()
    # Ids from a fixed salt and no date: equal data give an equal file. Text stays text.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "airflow_ml"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
