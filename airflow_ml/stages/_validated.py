"""Which raw partitions passed validation: the fences of the table ``validated``, which has no rows.

A day's fence is made from that of its raw partition and from what it was checked against. So a partition that is
replaced, or a check that changes, asks for validation again; half a year is one commit, whatever the windows were in
which it was validated; and two processes that validate at once leave one state.
"""

from collections.abc import Mapping, Sequence
from datetime import date

from airflow_ml.lifecycle.errors import MissingPartition
from airflow_ml.lifecycle.fingerprints import fingerprint
from airflow_ml.spec import Model
from airflow_ml.stages._event_times import delivered_event_time
from airflow_ml.stages.context import StageContext


def record(ctx: StageContext, raw: Mapping[date, int | None], refused: Sequence[date] = ()) -> None:
    """Write down what validation said of days.

    Args:
        ctx: Of the validation.
        raw: Fence of each day's raw partition.
        refused: Those of the days that did not pass: an earlier pass of the same partition no longer counts.
    """
    wanted = _fingerprints(ctx.model, raw)
    for day in refused:
        wanted[day] = fingerprint(wanted[day], "refused")
    table = ctx.table("validated")
    if not table.stale(wanted):
        return
    import pyarrow as pa

    schema = pa.schema([("verdict", pa.string())])
    attempt = table.attempt()
    try:
        table.commit(attempt, wanted, schema, metadata={"stage": "validate", "fingerprint": ctx.fingerprint})
    finally:
        attempt.discard()


def not_validated(ctx: StageContext, days: Sequence[date]) -> list[date]:
    """The days whose raw partition, as it is now, has not passed, oldest first."""
    return ctx.table("validated").stale(_fingerprints(ctx.model, ctx.table("raw").fences(days)))


def require_validated(ctx: StageContext, days: Sequence[date]) -> None:
    """Keep from use what nobody validated.

    Raises:
        MissingPartition: With the command that validates.
    """
    missing = not_validated(ctx, days)
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise MissingPartition(
            f"not validated, or refused by validation, as it is now: {shown}",
            where=f"table {ctx.table('raw').path}",
            remedy=f"run it first: airflow-ml run validate {ctx.model.name} --from {days[0]} --to {days[-1]}",
        )


def _fingerprints(model: Model, raw: Mapping[date, int | None]) -> dict[date, str]:
    checks = fingerprint(model.source.schema_.model_dump(mode="json"), delivered_event_time(model))
    return {day: fingerprint(fence, checks) for day, fence in raw.items()}
