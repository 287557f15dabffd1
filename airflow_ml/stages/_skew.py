"""Which days of a window have broken input: what validation said, as monitoring needs it."""

from airflow_ml.lifecycle.windows import Window
from airflow_ml.stages._validated import refusals
from airflow_ml.stages.context import StageContext


def broken_days(ctx: StageContext, window: Window) -> tuple[str, ...]:
    """One sentence for each day whose input is broken; empty when all is sound.

    A day is broken when validation refused its raw partition, in whatever window it looked at it, or when that
    partition never became features.
    """
    raw, features = ctx.table("raw").fences(window), ctx.table("features").fences(window)
    raw = {day: fence for day, fence in raw.items() if fence is not None}
    refused = refusals(ctx, raw)
    found = []
    for day in raw:
        if day in refused:
            why = f": {refused[day]}" if refused[day] else ""
            found.append(f"{day}: validation refused it{why}")
        elif features[day] is None:
            found.append(
                f"{day}: its raw partition is committed and its features are not: it was refused, or not built"
            )
    return tuple(found)
