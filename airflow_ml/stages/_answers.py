"""What a person has said of a release, for the stages that give it traffic."""

from airflow_ml.lifecycle.approvals import Answer, run_that_asks, standing
from airflow_ml.registry import approvals, champions
from airflow_ml.stages.context import StageContext


def answer_for(ctx: StageContext, version: int) -> Answer | None:
    """What a person has said of a release, as far as it counts for who asks now."""
    if ctx.model.approval is None:
        return None
    sender = ctx.request.coordinates
    asker = "" if sender is None else run_that_asks(sender.dag_id, sender.run_id)
    report = champions.release_of(ctx.platform, ctx.model.name, version).gate_report.sha256
    return standing(approvals.answers(ctx.platform, ctx.model.name), report, asker)
