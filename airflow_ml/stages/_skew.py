"""Which days of a window have broken input: what validation said, as monitoring needs it."""

from datetime import date

from airflow_ml.lifecycle.anomalies import Anomalies
from airflow_ml.lifecycle.windows import Window
from airflow_ml.stages.context import StageContext


def broken_days(ctx: StageContext, window: Window) -> tuple[str, ...]:
    """One sentence for each day whose input is broken; empty when all is sound.

    A day is broken when validation refused its raw partition, or when that partition never became features.
    """
    raw, features = ctx.table("raw").fences(window), ctx.table("features").fences(window)
    found = []
    for day in (day for day in window if raw[day] is not None):
        refused = _refused(ctx, day)
        if refused:
            found.append(f"{day}: validation refused it: {refused}")
        elif features[day] is None:
            found.append(
                f"{day}: its raw partition is committed and its features are not: it was refused, or not built"
            )
    return tuple(found)


def _refused(ctx: StageContext, day: date) -> str:
    """The worst anomaly that closed a day's validation of today's partition and declaration; empty when none did.

    A validation that refuses leaves its anomalies and no result, and one that passed later leaves a result beside them.
    """
    from airflow_ml.stages.runner import identify, stage_of

    request = ctx.request.model_copy(update={"stage": "validate", "window": Window.of(day)})
    folder = identify(request, stage_of("validate")).folder
    page = folder / "state" / "anomalies.json"
    if not page.exists() or (folder / "result.json").exists():
        return ""
    failures = Anomalies.model_validate_json(page.read_text(encoding="utf-8")).failures
    more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
    return f"{failures[0]}{more}" if failures else ""
