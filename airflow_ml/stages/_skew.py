"""Which days of a window have broken input: what validation said, as monitoring needs it."""

from airflow_ml.lifecycle.windows import Window
from airflow_ml.stages.context import StageContext


def broken_days(ctx: StageContext, window: Window) -> tuple[str, ...]:
    """One sentence for each day whose raw partition was held back from the features; empty when the input is sound."""
    raw, features = ctx.table("raw").fences(window), ctx.table("features").fences(window)
    return tuple(
        f"{day}: its raw partition is committed, its features are not: validation refused it, or nothing built them"
        for day in window
        if raw[day] is not None and features[day] is None
    )
