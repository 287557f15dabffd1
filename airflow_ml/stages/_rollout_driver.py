"""Carrying a rollout on: everything that can be done without waiting, up to the first look that has to be repeated.

A run that dies anywhere leaves a record that the next run continues; the state's operations are then done again from
the first.
"""

from datetime import UTC, datetime

from airflow_ml.lifecycle import rollout_moves as machine
from airflow_ml.lifecycle import rollout_operations
from airflow_ml.lifecycle.errors import AirflowMLError, BaseError, ChampionMoved, RolloutMoved
from airflow_ml.lifecycle.judging import Judgement
from airflow_ml.lifecycle.rollout import Rollout, State
from airflow_ml.registry import champions, rollouts
from airflow_ml.serving.errors import ConfigHeld, LeaseLost
from airflow_ml.stages._answers import answer_for
from airflow_ml.stages._rollout_operations import carry_out
from airflow_ml.stages._rollout_server import Server
from airflow_ml.stages.context import StageContext, log


def now_utc() -> datetime:
    """The time."""
    return datetime.now(UTC)


def advance(ctx: StageContext, server: Server, rollout: Rollout) -> Rollout:
    """Carry a rollout on until it ends, or a look says that it has to be looked at again.

    Raises:
        AirflowMLError: Something that has to be put right first: a full disk, a server that is away while the model
            goes back. The record says how far it is.
    """
    while rollout.open:
        try:
            wanted = _state_done(ctx, server, rollout)
            allowed = machine.consented(
                rollout, wanted, ctx.model.approval, answer_for(ctx, rollout.version), now_utc()
            )
            moved = rollouts.save(ctx.platform, allowed)
        except RolloutMoved as error:
            found = rollouts.current(ctx.platform, rollout.model)
            if found is None or found.began != rollout.began:
                raise
            log.info("%s; going on from there", error.what)
            rollout = found
            continue
        log.info("version %s: %s, %.0f %% of the traffic", moved.version, moved.state, moved.share * 100)
        if moved.unapproved:
            log.info("a person has to approve what comes next")
        held = machine.held(rollout, moved)
        rollout = moved
        if held:
            break
    return rollout


def _state_done(ctx: StageContext, server: Server, rollout: Rollout) -> Rollout:
    """Do what the state asks for; the rollout as it is afterwards."""
    judgement: Judgement | None = None
    try:
        for operation in rollout_operations.operations(rollout):
            with ctx.timed(f"{rollout.state} {operation.kind}"):
                judgement = carry_out(ctx, server, rollout, operation) or judgement
    except ChampionMoved as error:
        champion = champions.history(ctx.platform, rollout.model)[0].version
        if rollout.state is State.ROLL_BACK:
            return machine.overtaken(rollout, champion)
        if rollout.state is State.SETTLE:  # it was kept, and is succeeded already
            return machine.done(rollout, now_utc())
        return machine.failed(rollout, error.what, now_utc(), champion)
    except (RolloutMoved, BaseError, ConfigHeld, LeaseLost):
        raise  # it is no fault of the version
    except AirflowMLError as error:
        if not machine.gives_up(rollout):
            raise
        log.warning("%s: %s", rollout.state, error)
        return machine.failed(rollout, _said(error), now_utc())
    if judgement is None:
        return machine.done(rollout, now_utc())
    log.info("verdict %s: %s", judgement.verdict, judgement.reason)
    return machine.judged(rollout, judgement, now_utc())


def _said(error: AirflowMLError) -> str:
    return f"{error.where}: {error.what}" if error.where else error.what
