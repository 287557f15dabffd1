"""The window of a run: its params first, then its logical date. Runs without a logical date have params only."""

from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Model

DS = "(ds if ds is defined else '')"
"""Airflow leaves ``ds`` out of the context of a run without a logical date, and its templates refuse unknown names."""

FROM_RUN = "{{ params.get('from') or " + DS + " }}"
"""First partition: ``params.from``, else the run's."""

TO_RUN = "{{ params.get('to') or params.get('from') or " + DS + " }}"
"""Last partition: ``params.to``, else one day."""

TO_PARAM = "{{ params.get('to') or '' }}"
FROM_PARAM = "{{ params.get('from') or '' }}"


def rendered_window(model: Model, start: str | None, end: str | None) -> Window | None:
    """The window of two rendered fields; None when both are empty.

    Raises:
        SpecError: They are no dates, in the wrong order, or outside the model's data.
    """
    if not start and not end:
        return None
    try:
        window = Window.of((start or end or "")[:10], (end or start or "")[:10])
    except ValueError as error:
        raise SpecError(
            f"no window from {start!r} to {end!r}",
            where="params",
            remedy="give `from` and `to` as YYYY-MM-DD, in this order",
        ) from error
    if window.start < model.start or (model.end is not None and window.end > model.end):
        raise SpecError(
            f"no such partitions: {window}; {model.name} has {model.start} to {model.end or 'now'}",
            where="params, or the run's logical date",
            remedy="give `from` and `to` inside the model's data",
        )
    return window
