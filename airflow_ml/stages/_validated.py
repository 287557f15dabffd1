"""Which raw partitions passed validation, and which were refused: the fences of the table ``validated``.

A day's fence is made from that of its raw partition and from what it was checked against. So a partition that is
replaced, or a check that changes, asks for validation again; half a year is one commit, whatever the windows were in
which it was validated; and two processes that validate at once leave one state. A day that passed has no rows; one
that was refused has one, which says why.
"""

from collections.abc import Mapping, Sequence
from datetime import date

from airflow_ml.lifecycle.errors import MissingPartition
from airflow_ml.lifecycle.fingerprints import fingerprint
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Model
from airflow_ml.stages._event_times import delivered_event_time
from airflow_ml.stages.context import StageContext


def record(ctx: StageContext, raw: Mapping[date, int | None], refused: Mapping[date, str]) -> None:
    """Write down what validation said of days.

    Args:
        ctx: Of the validation.
        raw: Fence of each day's raw partition.
        refused: Why those of the days did not pass that did not: an earlier pass of the same partition no longer
            counts.
    """
    wanted = _fingerprints(ctx.model, raw)
    wanted |= {day: _refused(wanted[day]) for day in refused}
    table = ctx.table("validated")
    if not table.stale(wanted):
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("verdict", pa.string())])
    attempt = table.attempt()
    try:
        for day, why in refused.items():
            pq.write_table(pa.table({"verdict": [why]}, schema), attempt.partition(day) / "verdict.parquet")
        table.commit(attempt, wanted, schema, metadata={"stage": "validate", "fingerprint": ctx.fingerprint})
    except BaseException:
        attempt.discard()
        raise
    if not refused:
        # An empty folder; files are part of the table where they lie.
        attempt.discard()


def not_validated(ctx: StageContext, days: Sequence[date]) -> list[date]:
    """The days whose raw partition, as it is now, has not passed, oldest first."""
    return ctx.table("validated").stale(_fingerprints(ctx.model, ctx.table("raw").fences(days)))


def refusals(ctx: StageContext, raw: Mapping[date, int | None]) -> dict[date, str]:
    """Why validation refused days, for those whose raw partition, as it is now, it did refuse.

    Args:
        ctx: Of any stage.
        raw: Fence of each day's raw partition.
    """
    table = ctx.table("validated")
    wanted = {day: _refused(passed) for day, passed in _fingerprints(ctx.model, raw).items()}
    refused = wanted.keys() - set(table.stale(wanted))
    if not refused:
        return {}
    rows = table.read(Window.of(min(refused), max(refused))).to_pylist()
    why = {row["ds"]: str(row["verdict"]) for row in rows}
    return {day: why.get(day, "") for day in sorted(refused)}


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


def _refused(passed: str) -> str:
    """What a day's fence is made from that was refused, by what it would be made from had it passed."""
    return fingerprint(passed, "refused")


def _fingerprints(model: Model, raw: Mapping[date, int | None]) -> dict[date, str]:
    checks = fingerprint(model.source.schema_.model_dump(mode="json"), delivered_event_time(model))
    return {day: fingerprint(fence, checks) for day, fence in raw.items()}
