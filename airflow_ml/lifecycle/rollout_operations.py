"""What each state of a rollout asks of servers, gateway and registry, as a list of things to do. Pure."""

from typing import Literal

from airflow_ml.lifecycle.rollout import CANARY, Rollout, State
from airflow_ml.lifecycle.routing import STABLE, Arm, Routing
from airflow_ml.spec.base import Frozen


class Operation(Frozen):
    """Something to do, which may be done again.

    Attributes:
        kind: ``publish``: put the SavedModel where the servers find it. ``serve``: have them load `versions`, and no
            others but what somebody else uses (never of another model). ``await``: until `version` is AVAILABLE on
            every replica, or answers for `label`. ``warm_up``: requests until it is quick. ``probe``: golden requests,
            compared with the offline answers. ``route``: write `routing`. ``label``: point `label` at `version`, or
            take it away (None). ``promote``: make `version` the champion, if `expected` is. ``judge``: look at the two
            arms.
        version: Of the model.
        versions: All that have to be loaded.
        label: In the model server.
        expected: Champion before.
        routing: As the gateway reads it; None for a model that has no stable version.
    """

    kind: Literal["publish", "serve", "await", "warm_up", "probe", "route", "label", "promote", "judge"]
    version: int | None = None
    versions: tuple[int, ...] = ()
    label: str = ""
    expected: int | None = None
    routing: Routing | None = None


def operations(rollout: Rollout) -> tuple[Operation, ...]:
    """What the state does, in order. All of them done, or one of them failed, is the next event."""
    version, stable = rollout.version, rollout.stable
    loaded = Operation(kind="serve", versions=versions(rollout))
    route = Operation(kind="route", routing=routing(rollout))
    match rollout.state:
        case State.PUBLISH:
            return (Operation(kind="publish", version=version),)
        case State.LOAD:
            return (loaded, Operation(kind="await", version=version))
        case State.WARM_UP:
            return (Operation(kind="warm_up", version=version),)
        case State.SERVABILITY:
            return (Operation(kind="probe", version=version),)
        case State.SHADOW | State.CANARY:
            return (_label(CANARY, version), route, Operation(kind="judge"))
        case State.PROMOTE:
            # The champion first: it is the only step that somebody else can win.
            return (
                Operation(kind="promote", version=version, expected=stable),
                _label(STABLE, version),
                Operation(kind="route", routing=Routing(stable=version)),
            )
        case State.WATCH:
            return (route, Operation(kind="judge"))
        case State.SETTLE:
            return (route, _label(CANARY, None), loaded)
        case State.ROLL_BACK:
            return _way_back(rollout, loaded, route)
        case _:
            return ()


def _way_back(rollout: Rollout, loaded: Operation, route: Operation) -> tuple[Operation, ...]:
    """Traffic first: what answers it never stopped being loaded. Then what people read, then the memory."""
    if rollout.overtaken_by is not None:  # theirs may not be loaded any more: what we had loaded left it out
        known = {v for v in (rollout.stable, rollout.version, rollout.overtaken_by) if v is not None}
        return (
            Operation(kind="serve", versions=tuple(sorted(known))),
            Operation(kind="await", version=rollout.overtaken_by),
            route,
            _label(STABLE, rollout.overtaken_by),
            _label(CANARY, None),
            loaded,
        )
    if rollout.stable is None:
        return (route, _label(CANARY, None), loaded)
    return (
        route,
        _label(STABLE, rollout.stable),
        Operation(kind="promote", version=rollout.stable, expected=rollout.version),
        Operation(kind="await", label=STABLE, version=rollout.stable),
        _label(CANARY, None),
        loaded,
    )


def _label(label: str, version: int | None) -> Operation:
    return Operation(kind="label", label=label, version=version)


def routing(rollout: Rollout) -> Routing | None:
    """Who answers in this state; None while the model has no stable version."""
    if rollout.promoted:
        return Routing(stable=rollout.version)
    if rollout.back_to is None:
        return None
    return Routing(
        stable=rollout.back_to,
        arms=(Arm(name=CANARY, version=rollout.version, weight=rollout.share),) if rollout.share else (),
        shadow=(rollout.version,) if rollout.state is State.SHADOW else (),
    )


def versions(rollout: Rollout) -> tuple[int, ...]:
    """What has to be loaded in this state: the old version stays until the watch is over."""
    both = sorted({v for v in (rollout.stable, rollout.version) if v is not None})
    if rollout.state in (State.SETTLE, State.KEPT):
        return (rollout.version,)
    if rollout.state in (State.ROLL_BACK, State.ROLLED_BACK):
        return () if rollout.back_to is None else (rollout.back_to,)
    return tuple(both)
