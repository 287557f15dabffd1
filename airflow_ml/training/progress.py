"""Shows a training's events to a person: a bar in a terminal, log lines elsewhere."""

import logging
import sys
from typing import TYPE_CHECKING, Any

from airflow_ml.training.events import Event

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger("airflow_ml.training")

_SHORT = {"train_loss": "loss", "validation_loss": "val loss", "validation_roc_auc": "val auc"}
_NOT_SHOWN = ("event", "rank", "epoch", "best", "learning_rate", "seconds", "rows_per_s", "data_wait_share")


class Progress:
    """Callable with each event of a training.

    Args:
        epochs: At most; the bar's length.
        terminal: Draw a bar; None looks whether standard error is a terminal.
    """

    def __init__(self, epochs: int, terminal: bool | None = None) -> None:
        self._epochs = epochs
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bar: tqdm[Any] | None = None

    def __call__(self, event: Event) -> None:
        """Show one event."""
        line = describe(event, self._epochs)
        if not self._terminal:
            if line:
                log.info("%s", line)
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=self._epochs, unit="epoch", desc="training", file=sys.stderr)
        self._draw(self._bar, event, line)

    def _draw(self, bar: "tqdm[Any]", event: Event, line: str) -> None:
        if event["event"] == "epoch":
            bar.n = event["epoch"]
            loss, auc = _number(event.get("validation_loss")), _number(event.get("validation_roc_auc"))
            bar.set_postfix_str(f"val loss {loss}, auc {auc}")
        elif event["event"] == "progress":
            bar.n = round(event["epoch"] - 1 + event["step"] / event["steps"], 2)
            bar.refresh()
        elif event["event"] == "resumed":
            bar.n = event["epoch"]
            bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()


def describe(event: Event, epochs: int) -> str:
    """One line for an event; empty for one that says nothing to a person."""
    kind = event["event"]
    if kind == "started":
        return (
            f"{event['workers']} ranks of {event['threads']} threads met in {event['rendezvous_s']:.2f} s: "
            f"{event['train_rows']:,} rows to train on, {event['validation_rows']:,} to validate on"
        )
    if kind == "resumed":
        steps = f" and {event['step']} steps" if event.get("step") else ""
        return f"resumed after epoch {event['epoch']} of {epochs}{steps}"
    if kind == "progress":
        return (
            f"epoch {event['epoch']}/{event['epochs']}, step {event['step']}/{event['steps']}: "
            f"loss {_number(event['loss'])}, {event['rows_per_s']:,} rows/s, {event['eta_s']} s to go"
        )
    if kind == "epoch":
        # A user's own fit reports numbers of its own: show what is there.
        numbers = {name: value for name, value in event.items() if name not in _NOT_SHOWN}
        known = [f"{_SHORT.get(name, name.replace('_', ' '))} {_number(value)}" for name, value in numbers.items()]
        if "rows_per_s" in event:
            known.append(f"{event['rows_per_s']:,.0f} rows/s")
        best = " (best)" if event.get("best") else ""
        return f"epoch {event['epoch']}/{epochs}: {', '.join(known)}{best}"
    if kind == "failed":
        return f"rank {event['rank']} failed: {event['what']}"
    if kind == "finished":
        return f"finished: best epoch {event['best_epoch']}, val loss {_number(event['validation_loss'])}"
    return ""


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
