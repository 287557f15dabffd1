"""Rollout: a version that passed its gates comes to its traffic step by step, and back if it is not fit for it.

One run does all that can be done without waiting, up to the first look that says "hold"; whoever wants the rollout to
end runs the stage again and again. The record (`registry.rollouts`) says how far it is, so that it does not matter who
runs it, or how a run ended.

Automatic runs take the version of `register` and expect the champion that its gates were judged against. With
``{"version": 3}`` a person rolls out what passed its gates, whoever is champion; with ``{"mode": "rollback"}`` the
traffic goes back: from the version on its way, else from the champion to the one before it, or to the version named.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from airflow_ml.lifecycle import rollout_moves as machine
from airflow_ml.lifecycle import rollout_plans
from airflow_ml.lifecycle.errors import RolloutMoved
from airflow_ml.lifecycle.requests import JobRequest, JobResult
from airflow_ml.lifecycle.rollout import Mode, Rollout, State
from airflow_ml.registry import rollouts
from airflow_ml.stages._files import wanted_version
from airflow_ml.stages._rollout_driver import advance, now_utc
from airflow_ml.stages._rollout_server import Server, serving
from airflow_ml.stages._rollout_wishes import Asked, back, back_before, begun, champion_of, chosen
from airflow_ml.stages.base import TRAINING, Outcome, Stage
from airflow_ml.stages.context import StageContext

_ATTEMPTS = 5


class Rolling(Stage):
    """Summary: where the rollout is, what the newest look said, and when to run the stage again."""

    name = "rollout"
    components = ("grpcio", "mlflow", "deltalake")
    params = ("version", "mode", "steps", "by", "reason", "replay", *TRAINING)

    def identify(self, ctx: StageContext) -> dict[str, Any]:
        """What is wanted, of whom. How far it is, is no part of it: it is read from the record each time."""
        asked = Asked.of(ctx)
        found: dict[str, Any] = {"mode": asked.mode, "serving": ctx.platform.serving.model_dump(mode="json")}
        if asked.mode == "rollback":
            return found | {"version": wanted_version(ctx)}
        release, by_hand = chosen(ctx)
        plan = rollout_plans.planned(ctx.model.serving.canary, asked.mode, asked.steps)
        return found | {"release": release.id, "by_hand": by_hand, "plan": plan.model_dump(mode="json")}

    def still_true(self, ctx: StageContext, result: JobResult) -> bool:
        """It ended, nothing has happened since, and nobody wants to try again what did not go well."""
        summary = result.summary
        if summary["mode"] == "rollback":
            return False  # a later one goes back further: the record says whether it is a later one
        last = rollouts.current(ctx.platform, ctx.model.name)
        if last is None or last.open or last.revision != summary["revision"]:
            return False
        # Once more: what could not be done, and what a person wants to try again.
        again = last.state is State.ROLLED_BACK and (last.by_hand or not last.found_bad)
        return not again and champion_of(ctx) == summary["champion"]

    def run(self, ctx: StageContext) -> Outcome:
        """Begin or go on, until there is nothing to do but to wait."""
        asked = Asked.of(ctx)
        with serving(ctx) as server, giving_back(ctx, server):
            for _ in range(_ATTEMPTS):
                try:
                    return Outcome(summary=_carried_on(ctx, server, asked))
                except RolloutMoved as error:  # somebody else began, or moved it on, at the same moment
                    moved = error
            raise moved


def _carried_on(ctx: StageContext, server: Server, asked: Asked) -> dict[str, Any]:
    """What is wanted, as far as it can be done without waiting."""
    if asked.mode != "rollback":
        rollout = begun(ctx, server, asked, ctx.model.serving.canary)
        return _summary(ctx, advance(ctx, server, rollout), asked.mode)
    before = rollouts.current(ctx.platform, ctx.model.name)
    after = advance(ctx, server, back(ctx, server, asked))
    summary = _summary(ctx, after, asked.mode)
    if before is not None and not after.open and after.revision == before.revision:
        summary["note"] = back_before(ctx, after)
    return summary


def run_until_ended(request: JobRequest, tell: Callable[[str], None]) -> JobResult:
    """Run the stage until the rollout has ended, with a line for each look; what a DAG does, without Airflow.

    A shadow is left when its looks are good, and any rollout when a person has to approve it: what follows is theirs
    to say.
    """
    from airflow_ml.stages.runner import execute

    ctx = StageContext(request)
    with serving(ctx) as server, giving_back(ctx, server):
        while True:
            result = execute(request)
            said = result.summary
            tell(
                f"version {said['version']}: {said['state']}, {said['share']:.0%} of the traffic"
                + (f"; {said['verdict']}: {said['verdict_reason']}" if said["verdict"] else "")
            )
            if said["waits_for"]:
                tell(f"a person has to approve what comes next: start the DAG {request.model.name}_release, which asks")
                return result
            if not said["open"] or (said["mode"] == "shadow" and said["verdict"] == "promote"):
                return result
            time.sleep(said["look_again_s"])


@contextmanager
def giving_back(ctx: StageContext, server: Server) -> Iterator[None]:
    """Leave what is declared when this process is told to stop: a rollout that goes on, or traffic that is back."""

    def stop(number: int, _: object) -> None:
        sys.exit(128 + number)

    heard = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if heard else None
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        found = rollouts.current(ctx.platform, ctx.model.name)
        if found is not None and found.open:
            wanted = machine.interrupted(found, now_utc())
            if wanted is not found:
                advance(ctx, server, rollouts.save(ctx.platform, wanted))
        raise
    finally:
        if heard:
            signal.signal(signal.SIGTERM, before)


def _summary(ctx: StageContext, rollout: Rollout, mode: Mode) -> dict[str, Any]:
    newest = rollout.judgements[-1] if rollout.judgements else None
    return {
        "version": rollout.version,
        "release": rollout.release,
        "mode": mode,
        "state": str(rollout.state),
        "step": rollout.step,
        "share": rollout.share,
        "open": rollout.open,
        "look_again_s": machine.look_again_s(rollout, now_utc()),
        "verdict": None if newest is None else str(newest.verdict),
        "verdict_reason": "" if newest is None else newest.reason,
        "numbers": {} if newest is None else newest.numbers,
        "waits_for": "approval" if rollout.unapproved else "",
        "stable": rollout.back_to,
        "previous_champion": rollout.stable,
        "champion": champion_of(ctx),
        "reason": rollout.reason,
        "by": rollout.by,
        "why": rollout.why,
        "revision": rollout.revision,
    }


STAGE = Rolling()
