"""What is wanted of a rollout, and the record that follows from it: begun, joined, brought back, or found ended."""

from dataclasses import dataclass
from datetime import timedelta
from typing import get_args

from pydantic import ValidationError

from airflow_ml.lifecycle import rollout_moves as machine
from airflow_ml.lifecycle import rollout_plans
from airflow_ml.lifecycle.errors import NotReleasable, SpecError
from airflow_ml.lifecycle.releases import Release
from airflow_ml.lifecycle.rollout import Mode, Rollout, State
from airflow_ml.registry import champions, rollouts
from airflow_ml.spec import Canary
from airflow_ml.stages._answers import answer_for
from airflow_ml.stages._files import file_of, wanted_version
from airflow_ml.stages._rollout_driver import advance, now_utc
from airflow_ml.stages._rollout_server import Server
from airflow_ml.stages.context import StageContext
from airflow_ml.storage import verify

_SAME_WISH_S = 300.0
"""Two who roll back at the same moment want the same: the second does not go back one more."""


@dataclass(frozen=True)
class Asked:
    """What the request's parameters say.

    Attributes:
        mode: How.
        steps: Shares in place of the declared ones.
        by: Who wants it.
        why: In their words.
        run: That asks; asked again by the same one, nothing is begun anew.
    """

    mode: Mode
    steps: tuple[float, ...] | None = None
    by: str = ""
    why: str = ""
    run: str = ""

    @staticmethod
    def of(ctx: StageContext) -> "Asked":
        """Read them.

        Raises:
            SpecError: One is not as it has to be.
        """
        given = {name: value for name, value in ctx.params.items() if value not in (None, "")}
        mode = given.get("mode", "declared")
        if mode not in get_args(Mode):
            raise SpecError(f"no such mode: {mode!r}", "stage rollout", f"choose one of {', '.join(get_args(Mode))}")
        steps = given.get("steps")
        if steps is not None:
            try:
                steps = Canary(steps=steps).steps
            except ValidationError as error:
                what = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise SpecError(what, "stage rollout, steps", "pass shares that rise, as [0.01, 0.1, 0.5]") from error
        sender = ctx.request.coordinates
        run = "" if sender is None else f"{sender.dag_id} {sender.run_id} {sender.map_index}"
        return Asked(mode, steps, str(given.get("by", "")), str(given.get("reason", "")), run)


def chosen(ctx: StageContext) -> tuple[Release, bool]:
    """The registered record of the wanted version, and whether a person wants it."""
    version = wanted_version(ctx)
    if version is not None:
        return champions.release_of(ctx.platform, ctx.model.name, version), True
    registered = file_of(ctx.upstream("register"), "release")
    named = Release.model_validate_json(verify(registered.uri, registered.sha256).read_bytes())
    return champions.release_of(ctx.platform, ctx.model.name, named.version), False


def not_approved(name: str, version: int) -> NotReleasable:
    """The error for a release that a person has to approve first."""
    return NotReleasable(
        "a person has to approve it first",
        where=f"model {name}, version {version}",
        remedy=f"start the DAG {name}_release, which asks",
    )


def begun(ctx: StageContext, server: Server, asked: Asked, declared: Canary | None) -> Rollout:
    """The rollout of the wanted release: the one that runs, the one that ended, or a new one.

    Args:
        ctx: Of the stage.
        server: Has to answer before anything is begun.
        asked: What is wanted.
        declared: How the model's releases come to their traffic.
    """
    release, by_hand = chosen(ctx)
    last = rollouts.current(ctx.platform, ctx.model.name)
    if last is not None and last.state is State.ROLL_BACK and last.release != release.id:
        # Whoever was taking it back was stopped: it is in nobody's way once that is done.
        last = advance(ctx, server, last)
    champion = champion_of(ctx)
    if last is not None and not last.open and last.release == release.id:
        kept = last.state is State.KEPT and champion == release.version
        # What was found to be bad is not tried again by itself; what could not be loaded, or was overtaken, may be.
        bad = last.found_bad and (not by_hand or bool(asked.run and last.asked == asked.run))
        if kept or bad:
            return last
    if last is None or not last.open:
        release.require_passed()
        expected = champion if by_hand else release.previous_champion
        champions.require_movable(ctx.platform, release, expected, by_hand)
        server.require()
    wanted = rollout_plans.begin(
        release, champion, rollout_plans.planned(declared, asked.mode, asked.steps), now_utc(), mode=asked.mode,
        by_hand=by_hand, asked=asked.run, by=asked.by, why=asked.why, running=last,
    )  # fmt: skip
    if wanted is last:
        return last
    if machine.needs_approval(wanted, ctx.model.approval, answer_for(ctx, release.version)):
        raise not_approved(ctx.model.name, release.version)
    return rollouts.save(ctx.platform, wanted)


def back(ctx: StageContext, server: Server, asked: Asked) -> Rollout:
    """The way back that is wanted: of the rollout that is open, or to a former champion."""
    version = wanted_version(ctx)
    last = rollouts.current(ctx.platform, ctx.model.name)
    if last is not None and last.open:
        if last.state is State.ROLL_BACK or (last.mode == "rollback" and version in (None, last.version)):
            return last
        if last.state is State.SETTLE:
            last = advance(ctx, server, last)
        else:
            wanted = machine.recalled(last, now_utc(), asked=asked.run, by=asked.by, why=asked.why)
            last = advance(ctx, server, rollouts.save(ctx.platform, wanted))
            if version is None:
                return last
    champion = champion_of(ctx)
    if last is not None and version in (None, champion) and _is_back(last, champion, asked.run):
        return last
    if version is None:
        version = champions.before(ctx.platform, ctx.model.name)
    if version is None:
        raise NotReleasable(
            "there was no champion before", f"model {ctx.model.name}", "name the version to go back to: version=3"
        )
    release = champions.release_of(ctx.platform, ctx.model.name, version)
    plan = rollout_plans.planned(None, "rollback")
    wanted = rollout_plans.begin(
        release, champion, plan, now_utc(), mode="rollback", by_hand=True, asked=asked.run, by=asked.by, why=asked.why,
        running=last,
    )  # fmt: skip
    if server.available(version):
        wanted = rollout_plans.straight_back(wanted)
    return rollouts.save(ctx.platform, wanted)


def back_before(ctx: StageContext, last: Rollout) -> str:
    """What is told to somebody whose rollback was somebody else's just before, and changes nothing."""
    whose = f" by {last.by}" if last.mode == "rollback" and last.by else ""
    return (
        f"nothing was done: the traffic is back on version {champion_of(ctx)} since {last.since:%H:%M:%S} UTC{whose}, "
        f"and rollbacks within {_SAME_WISH_S:.0f} s are one; to go further back, name the version"
    )


def _is_back(last: Rollout, champion: int | None, run: str) -> bool:
    """Whether what ended last was a way back that this wish may have meant."""
    if last.state is State.ROLLED_BACK:
        asked = last.recalled
    else:
        asked = last.asked if last.mode == "rollback" and champion == last.version else None
    if asked is None:
        return False
    return bool(run and asked == run) or now_utc() - last.since < timedelta(seconds=_SAME_WISH_S)


def champion_of(ctx: StageContext) -> int | None:
    """The version that rules, or None."""
    return champions.ruling(ctx.platform, ctx.model.name)
