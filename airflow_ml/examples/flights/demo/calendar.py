"""The days that the demo plays: which it learns from, which it scores, and when it looks for drift."""

from dataclasses import dataclass
from datetime import date, timedelta

from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Model


@dataclass(frozen=True)
class Calendar:
    """The days that the demo plays.

    Attributes:
        history: Delivered and built in bulk before the first training.
        nights: Scored one by one with `airflow backfill`.
        watched: Ends of the monitoring windows, in order; the first that says `retrain` ends the watching.
        after: How many nights the loop goes on after the retraining.
    """

    history: Window
    nights: Window
    watched: tuple[date, ...]
    after: int = 7


AUTUMN = Calendar(
    history=Window.of("2013-01-01", "2013-11-15"),
    nights=Window.of("2013-11-16", "2013-12-15"),
    watched=(date(2013, 11, 22), date(2013, 11, 29), date(2013, 12, 6), date(2013, 12, 13)),
)
"""A calm autumn to learn from, and then the storms of December: late flights double within two weeks."""


def known(history: Window, model: Model) -> Window:
    """Outcomes that have landed by the last midnight of the history."""
    return Window.of(history.start, history.end - timedelta(days=model.label.lag))


def window(days: Window) -> dict[str, str]:
    """A window as the DAGs' form takes it."""
    return {"from": days.start.isoformat(), "to": days.end.isoformat()}
