"""How a rollout begins: the plan that it was asked for with, and who may begin one while another is open. Pure."""

from collections.abc import Mapping
from datetime import datetime

from airflow_ml.lifecycle.errors import NotReleasable, RolloutRunning
from airflow_ml.lifecycle.releases import Release
from airflow_ml.lifecycle.rollout import ORDER, Mode, Rollout, State, next_wanted, passed_over
from airflow_ml.spec.serving import Canary

AT_ONCE = Canary(shadow=False, steps=(), watch_s=0.0)
"""The plan of a model that declares none."""

_FURTHER: Mapping[Mode, int] = {"shadow": 0, "declared": 1, "canary": 1, "at_once": 2}
"""A rollout that is open can be asked to go further than it would by itself, and never less far: the one who waits for
it asks again and again with what he asked for first."""


def planned(declared: Canary | None, mode: Mode, steps: tuple[float, ...] | None = None) -> Canary:
    """The plan of a rollout that is asked for.

    Args:
        declared: By the model.
        mode: How it is asked for.
        steps: In place of the declared ones.
    """
    if mode == "shadow":
        return (declared or Canary()).model_copy(update={"shadow": True})
    if mode == "rollback":
        return AT_ONCE
    if mode == "at_once":
        return AT_ONCE if declared is None else declared.model_copy(update={"shadow": False, "steps": ()})
    plan = Canary() if mode == "canary" and declared is None else declared or AT_ONCE
    return plan if steps is None else Canary.model_validate(plan.model_dump() | {"steps": steps})


def begin(
    release: Release, stable: int | None, plan: Canary, now: datetime, *, mode: Mode = "declared",
    by_hand: bool = False, asked: str = "", by: str = "", why: str = "", running: Rollout | None = None,
) -> Rollout:  # fmt: skip
    """A rollout of a release; or the one that runs, if it is of this release.

    Args:
        release: Passed its gates.
        stable: Champion now. Without one there is nobody to compare with: the release is probed and takes all traffic.
        plan: As `planned`.
        now: The time.
        mode: How it is asked for.
        by_hand: Whether a person chose the version.
        asked: Run that asks.
        by: Who wants it.
        why: In their words.
        running: The model's last rollout.

    Raises:
        NotReleasable: Its gates are closed, or it cannot be a shadow of nobody.
        RolloutRunning: another release of the model is on its way.
    """
    release.require_passed()
    if running is not None and running.open and running.release == release.id:
        return _further(running, plan, mode, now)
    require_ended(running, release)
    if stable in (None, release.version):
        if mode == "shadow":
            raise NotReleasable(
                "there is no other champion whose requests could be copied",
                where=f"model {release.model}, version {release.version}",
                remedy="release it at once: it is probed before it takes any traffic",
            )
        plan = AT_ONCE
    return Rollout(
        model=release.model, version=release.version, release=release.id, stable=stable, plan=plan, mode=mode,
        by_hand=by_hand, asked=asked, since=now, began=now, by=by, why=why,
        revision=0 if running is None else running.revision + 1,
    )  # fmt: skip


def require_ended(running: Rollout | None, release: Release) -> None:
    """Refuse a release while another one of its model is on its way.

    Raises:
        RolloutRunning: It is.
    """
    if running is not None and running.open:
        raise RolloutRunning(
            f"version {running.version} is on its way ({running.state}), begun {running.began:%Y-%m-%d %H:%M} UTC",
            where=f"model {release.model}, version {release.version}",
            remedy="wait until it is kept or rolled back, or roll it back; then release this one",
        )


def straight_back(rollout: Rollout) -> Rollout:
    """A rollout that just began, of a former champion that is still loaded: it was probed, and traffic comes first."""
    return rollout.model_copy(update={"state": State.PROMOTE})


def _further(running: Rollout, plan: Canary, mode: Mode, now: datetime) -> Rollout:
    """The one that runs, with the plan of who wants it to go further."""
    waiting = running.state in ORDER[: ORDER.index(State.PROMOTE)]
    if (
        not waiting
        or running.stable in (None, running.version)
        or _FURTHER.get(mode, 0) <= _FURTHER.get(running.mode, 0)
    ):
        return running
    plan = plan.model_copy(update={"shadow": plan.shadow and running.plan.shadow})
    state = running.state
    step = next((i for i, share in enumerate(plan.steps) if share >= running.share), None) if running.share else 0
    if step is None or passed_over(plan, state):
        state, step = next_wanted(plan, State.PROMOTE if step is None else state), 0
    update = {"plan": plan, "mode": mode, "state": state, "step": step, "since": now, "revision": running.revision + 1}
    return running.model_copy(update=update)
