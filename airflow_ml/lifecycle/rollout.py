"""The way of a release to its traffic, and back: a state machine as values and pure functions.

    publish → load → warm up → servability → shadow → canary (step by step) → promote → watch → settle → kept
        any of them, on a failure or a bad verdict:                          → roll back → rolled back

A `Rollout` is kept in a file and replaced after each state. It is begun by :mod:`.rollout_plans`. What a state does is
a list of operations (:mod:`.rollout_operations`), each of which may be done again without harm; a run that was killed
anywhere reads the file and does the state's operations from the first. So the world is always as some state wants it,
or on its way there, and whatever the file says, the stable version is loaded and answers.

Nothing here reads a clock, a file or a server: the time, and what operations brought, come as arguments.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Literal

from airflow_ml.lifecycle.approvals import Answer, needed
from airflow_ml.lifecycle.judging import Judgement, Verdict
from airflow_ml.spec.approval import Approval
from airflow_ml.spec.base import Frozen
from airflow_ml.spec.serving import Canary

CANARY = "canary"
"""Of the new version: its label in the model server, and the name of its arm."""

Mode = Literal["declared", "canary", "shadow", "at_once", "rollback"]
"""How a rollout is asked for: as the model declares it; step by step; copies of live requests and nothing more, until a
person says how to go on; all traffic at once; back to a version that was champion."""

_MOST_JUDGEMENTS = 50

_LOOKS, _SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 20, 1.0, 30.0
"""At a step: what a bad version can do until the next look is what one look in twenty leaves it."""


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
_JUDGED = (State.SHADOW, State.CANARY, State.WATCH)
_ENDS = (State.KEPT, State.ROLLED_BACK)

TRANSITIONS: Mapping[tuple[State, Event], State] = {
    **{(a, Event.DONE): b for a, b in pairwise(ORDER)},
    **{(state, Event.HELD): state for state in _JUDGED},
    # What is promoted and failed to settle is done again; there is nothing to go back for.
    **{(state, Event.FAILED): State.ROLL_BACK for state in ORDER if state not in (State.SETTLE, *_ENDS)},
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
        return self.state not in _ENDS

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


def done(rollout: Rollout, now: datetime) -> Rollout:
    """The operations of a state that is not judged are done."""
    if rollout.state in _JUDGED:
        raise ValueError(f"{rollout.state} ends with a judgement")
    return _moved(rollout, Event.DONE, now)


def judged(rollout: Rollout, judgement: Judgement, now: datetime) -> Rollout:
    """The two arms were looked at.

    While it is watched, a version that was promoted stays as long as it is not bad: for want of requests nobody is
    rolled back who has passed all steps.
    """
    if rollout.state not in _JUDGED:
        raise ValueError(f"{rollout.state} is not judged")
    kept = (*rollout.judgements, judgement)[-_MOST_JUDGEMENTS:]
    rollout = rollout.model_copy(update={"judgements": kept})
    bad = judgement.verdict is Verdict.ROLL_BACK
    if rollout.state is State.WATCH:
        bad = bad and not judgement.starved
        good = not bad and (now - rollout.since).total_seconds() >= rollout.plan.watch_s
    elif rollout.mode == "shadow":
        # Nobody gets its answers: that there are too few of them harms nobody, and what follows is a person's to say.
        bad, good = bad and not judgement.starved, False
    else:
        good = judgement.verdict is Verdict.PROMOTE
    if bad:
        return failed(rollout, judgement.reason, now)
    return _moved(rollout, Event.DONE if good else Event.HELD, now)


def failed(rollout: Rollout, reason: str, now: datetime, champion: int | None = None) -> Rollout:
    """An operation failed for good, a verdict was bad, or a person wants it back.

    Args:
        rollout: Open, and not on its way back already.
        reason: For people.
        now: The time.
        champion: Who is champion, if it is neither the old version nor this one: somebody else promoted, and traffic
            goes to them.
    """
    if champion not in (None, rollout.stable, rollout.version):
        rollout = rollout.model_copy(update={"overtaken_by": champion})
    return _moved(rollout.model_copy(update={"reason": reason}), Event.FAILED, now)


def recalled(rollout: Rollout, now: datetime, *, asked: str = "", by: str = "", why: str = "") -> Rollout:
    """A person wants it back.

    Args:
        rollout: Open, and neither promoted for good nor on its way back.
        now: The time.
        asked: Run that asks.
        by: Who.
        why: In their words.
    """
    said = f"rolled back by {by or 'hand'}" + (f": {why}" if why else "")
    return failed(rollout.model_copy(update={"recalled": asked}), said, now)


def overtaken(rollout: Rollout, champion: int) -> Rollout:
    """Somebody else promoted while it went back: traffic goes to them."""
    return rollout.model_copy(update={"overtaken_by": champion, "revision": rollout.revision + 1})


def gives_up(rollout: Rollout) -> bool:
    """Whether an operation that fails brings the old version back; otherwise it has to be done again.

    What is promoted has nobody to give way to, if it is the model's first, or was brought back in place of a worse one.
    """
    if rollout.state is State.PROMOTE:
        return rollout.stable is not None and rollout.mode != "rollback"
    return (rollout.state, Event.FAILED) in TRANSITIONS


def held(before: Rollout, after: Rollout) -> bool:
    """Whether what was done was a look that has to be repeated: there is nothing to do but to wait."""
    if after.unapproved:
        return True
    return after.state in _JUDGED and (before.state, before.step) == (after.state, after.step)


def look_again_s(rollout: Rollout, now: datetime) -> float:
    """After which time another look can tell more; 0 where there is something to do at once."""
    if rollout.state not in _JUDGED:
        return _LONGEST_PAUSE_S if rollout.unapproved else 0.0
    watched = rollout.state is State.WATCH
    whole = rollout.plan.watch_s if watched else rollout.plan.judging.max_wait_s
    pace = min(max(whole / _LOOKS, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)
    left = whole - (now - rollout.since).total_seconds()
    return min(pace, left) if left > 0 else (_SHORTEST_PAUSE_S if watched else pace)


def needs_approval(rollout: Rollout, approval: Approval | None, answer: Answer | None) -> bool:
    """Whether the release may not have the traffic that its state gives it before a person has said yes.

    What is promoted has it, and the way back is nobody's to approve.

    Args:
        rollout: On its way.
        approval: As the model declares it.
        answer: That holds for the gate report.
    """
    if rollout.mode == "rollback" or rollout.state not in ORDER[: ORDER.index(State.WATCH)]:
        return False
    return needed(approval, 1.0 if rollout.state is State.PROMOTE else rollout.share, answer)


def consented(
    before: Rollout, after: Rollout, approval: Approval | None, answer: Answer | None, now: datetime
) -> Rollout:
    """`after`, unless a person has to approve it first: then `before`, which waits, or its way back if he said no.

    Args:
        before: What was done.
        after: What would follow.
        approval: As the model declares it.
        answer: That holds for the gate report.
        now: The time.
    """
    if before.state is State.PROMOTE or not needs_approval(after, approval, answer):
        return after
    if (before.state, before.step) == (after.state, after.step):
        return after
    stays = before.model_copy(update={"judgements": after.judgements})
    if answer is not None:
        return failed(stays, str(answer), now)
    return stays.model_copy(update={"unapproved": True, "revision": before.revision + 1})


def interrupted(rollout: Rollout, now: datetime) -> Rollout:
    """Whoever carries it out was told to stop: a version that has traffic gives it back, if that is declared.

    Otherwise nothing changes, and the next run goes on from here.
    """
    asked = rollout.state in (State.SHADOW, State.CANARY)
    if rollout.plan.interrupted == "roll_back" and asked:
        return failed(rollout, "the task was stopped", now)
    return rollout


def _moved(rollout: Rollout, event: Event, now: datetime) -> Rollout:
    state = TRANSITIONS.get((rollout.state, event))
    if state is None:
        raise ValueError(f"nothing follows {event} in {rollout.state}")
    step = rollout.step
    if event is Event.DONE and rollout.state is State.CANARY and step + 1 < len(rollout.plan.steps):
        state, step = State.CANARY, step + 1
    state = next_wanted(rollout.plan, state)
    since = rollout.since if event is Event.HELD else now
    update = {"state": state, "step": step, "since": since, "unapproved": False, "revision": rollout.revision + 1}
    return rollout.model_copy(update=update)


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
