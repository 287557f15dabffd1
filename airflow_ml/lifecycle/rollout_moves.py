"""How a rollout goes on: from what operations brought, what was seen and what a person said, to its next state.

Nothing here reads a clock, a file or a server: all of that comes as arguments.
"""

from datetime import datetime

from airflow_ml.lifecycle.approvals import Answer, needed
from airflow_ml.lifecycle.judging import Judgement, Verdict
from airflow_ml.lifecycle.rollout import JUDGED, ORDER, TRANSITIONS, Event, Rollout, State, next_wanted
from airflow_ml.spec.approval import Approval

_MOST_JUDGEMENTS = 50

_LOOKS, _SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 20, 1.0, 30.0
"""At a step: what a bad version can do until the next look is what one look in twenty leaves it."""


def done(rollout: Rollout, now: datetime) -> Rollout:
    """The operations of a state that is not judged are done."""
    if rollout.state in JUDGED:
        raise ValueError(f"{rollout.state} ends with a judgement")
    return _moved(rollout, Event.DONE, now)


def judged(rollout: Rollout, judgement: Judgement, now: datetime) -> Rollout:
    """The two arms were looked at.

    While it is watched, a version that was promoted stays as long as it is not bad: for want of requests nobody is
    rolled back who has passed all steps.
    """
    if rollout.state not in JUDGED:
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
    return after.state in JUDGED and (before.state, before.step) == (after.state, after.step)


def look_again_s(rollout: Rollout, now: datetime) -> float:
    """After which time another look can tell more; 0 where there is something to do at once."""
    if rollout.state not in JUDGED:
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
