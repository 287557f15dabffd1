"""The way of a release to its traffic, and back: a state machine as values and pure functions.

    publish → load → warm up → servability → shadow → canary (step by step) → promote → watch → settle → kept
        any of them, on a failure or a bad verdict:                          → roll back → rolled back

A `Rollout` is kept in a file and replaced after each state. It is begun by :mod:`.rollout_plans` and goes on by
:mod:`.rollout_moves`. What a state does is a list of operations (:mod:`.rollout_operations`), each of which may be done
again without harm; a run that was killed anywhere reads the file and does the state's operations from the first. So the
world is always as some state wants it, or on its way there, and whatever the file says, the stable version is loaded
and answers.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Literal

from airflow_ml.lifecycle.judging import Judgement, Verdict
from airflow_ml.spec.base import Frozen
from airflow_ml.spec.serving import Canary

CANARY = "canary"
"""Of the new version: its label in the model server, and the name of its arm."""

Mode = Literal["declared", "canary", "shadow", "at_once", "rollback"]
"""How a rollout is asked for: as the model declares it; step by step; copies of live requests and nothing more, until a
person says how to go on; all traffic at once; back to a version that was champion."""


class State(StrEnum):
    """What is done next; the last two are ends."""

    PUBLISH = "publish"
    LOAD = "load"
    WARM_UP = "warm_up"
    SERVABILITY = "servability"
    SHADOW = "shadow"
    CANARY = "canary"
    PROMOTE = "promote"
    WATCH = "watch"
    SETTLE = "settle"
    ROLL_BACK = "roll_back"
    KEPT = "kept"
    ROLLED_BACK = "rolled_back"


class Event(StrEnum):
    """What moves a rollout on."""

    DONE = "done"
    HELD = "held"
    FAILED = "failed"


ORDER = (
    State.PUBLISH,
    State.LOAD,
    State.WARM_UP,
    State.SERVABILITY,
    State.SHADOW,
    State.CANARY,
    State.PROMOTE,
    State.WATCH,
    State.SETTLE,
    State.KEPT,
)
JUDGED = (State.SHADOW, State.CANARY, State.WATCH)
ENDS = (State.KEPT, State.ROLLED_BACK)

TRANSITIONS: Mapping[tuple[State, Event], State] = {
    **{(a, Event.DONE): b for a, b in pairwise(ORDER)},
    **{(state, Event.HELD): state for state in JUDGED},
    # What is promoted and failed to settle is done again; there is nothing to go back for.
    **{(state, Event.FAILED): State.ROLL_BACK for state in ORDER if state not in (State.SETTLE, *ENDS)},
    (State.ROLL_BACK, Event.DONE): State.ROLLED_BACK,
}
"""Every move there is. A state without traffic to give is passed over: a rollout without canary steps has none."""


class Rollout(Frozen):
    """One release on its way.

    Attributes:
        model: Name.
        version: Registry version that is rolled out.
        release: `Release.id` of it: version and gate report.
        stable: Champion when it began, and where traffic goes back to; None for a model's first release.
        plan: As declared when it began, or as asked for.
        mode: How it was asked for.
        by_hand: Whether a person chose the version: he may bring back a former champion, and try a version again.
        asked: Run that asked, or empty: asked again by the same run, it is not begun anew.
        recalled: Run of whom brought it back by hand, or empty; None where nobody did.
        state: What is done next.
        step: Canary step, from 0.
        since: When this state, or this step, began.
        began: When the rollout did.
        judgements: The newest looks, oldest first: evidence.
        by: Who began it.
        why: In their words.
        reason: Why it is rolled back.
        overtaken_by: Version that somebody else promoted meanwhile: traffic goes there.
        unapproved: Whether it stays where it is until a person approves it.
        revision: Counts changes: who writes has to have read the revision before.
    """

    model: str
    version: int
    release: str
    stable: int | None
    plan: Canary
    mode: Mode = "declared"
    by_hand: bool = False
    asked: str = ""
    recalled: str | None = None
    state: State = State.PUBLISH
    step: int = 0
    since: datetime
    began: datetime
    judgements: tuple[Judgement, ...] = ()
    by: str = ""
    why: str = ""
    reason: str = ""
    overtaken_by: int | None = None
    unapproved: bool = False
    revision: int = 0

    @property
    def open(self) -> bool:
        """Whether there is something left to do."""
        return self.state not in ENDS

    @property
    def back_to(self) -> int | None:
        """Who answers when this version does not."""
        return self.stable if self.overtaken_by is None else self.overtaken_by

    @property
    def promoted(self) -> bool:
        """Whether the version has all traffic."""
        return self.state in (State.WATCH, State.SETTLE, State.KEPT)

    @property
    def found_bad(self) -> bool:
        """Whether it went back because of what it did, or of what a person said; not for what could not be done."""
        judged = bool(self.judgements) and self.judgements[-1].verdict is Verdict.ROLL_BACK
        return self.state is State.ROLLED_BACK and (judged or self.recalled is not None)

    @property
    def share(self) -> float:
        """Share of the traffic that the version answers."""
        if self.promoted:
            return 1.0
        if self.state is State.CANARY:
            return self.plan.steps[self.step]
        # between the last step and promotion nobody is sent back
        return self.plan.steps[-1] if self.state is State.PROMOTE and self.plan.steps else 0.0


def next_wanted(plan: Canary, state: State) -> State:
    """The first state from this one on in which the plan has something to do."""
    while passed_over(plan, state):
        state = TRANSITIONS[state, Event.DONE]
    return state


def passed_over(plan: Canary, state: State) -> bool:
    """Whether the plan has nothing to do in a state."""
    return (
        (state is State.SHADOW and not plan.shadow)
        or (state is State.CANARY and not plan.steps)
        or (state is State.WATCH and not plan.watch_s)
    )
