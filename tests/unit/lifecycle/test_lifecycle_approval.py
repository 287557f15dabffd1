"""A rollout that waits for a person: how far it goes without one, and what an answer does."""

from datetime import UTC, datetime, timedelta

import pytest

from airflow_ml.lifecycle.approvals import Answer, standing
from airflow_ml.lifecycle.judging import Judgement, Verdict
from airflow_ml.lifecycle.rollout import Rollout, State
from airflow_ml.lifecycle.rollout_moves import consented, done, held, judged, look_again_s, needs_approval
from airflow_ml.spec import Approval, Canary

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def look(verdict, reason):
    return Judgement(verdict=verdict, reason=reason, findings=(), stable_requests=9, candidate_requests=9, waited_s=1.0)


GOOD, HOLD, BAD = look(Verdict.PROMOTE, "as good"), look(Verdict.HOLD, "too few"), look(Verdict.ROLL_BACK, "worse")


def rollout(state, step=0, **changes):
    plan = Canary(shadow=False, steps=(0.1, 0.5))
    kept = {"model": "m", "version": 2, "release": "v2-a", "stable": 1, "plan": plan, "since": NOW, "began": NOW}
    return Rollout(**(kept | {"state": state, "step": step} | changes))


def said(option, **changes):
    return Answer(version=2, gate_report="g", option=option, by="ann", at=NOW, **changes)


def after(before, judgement=GOOD):
    if before.state in (State.CANARY, State.WATCH):
        return judged(before, judgement, NOW)
    return done(before, NOW)


@pytest.mark.parametrize(
    ("before", "above", "waits"),
    [
        (rollout(State.PUBLISH), 0.0, False),
        (rollout(State.SERVABILITY), 0.0, True),
        (rollout(State.SERVABILITY), 0.1, False),
        (rollout(State.CANARY, 0), 0.1, True),
        (rollout(State.CANARY, 0), 0.5, False),
        (rollout(State.CANARY, 1), 0.5, True),
        (rollout(State.PROMOTE), 0.0, False),
        (rollout(State.WATCH), 0.0, False),
        (rollout(State.SERVABILITY, mode="rollback"), 0.0, False),
    ],
)
def test_a_release_waits_before_the_first_share_that_is_above(before, above, waits):
    wanted = after(before)
    allowed = consented(before, wanted, Approval(above=above), None, NOW)
    if not waits:
        assert allowed is wanted
        return
    assert (allowed.state, allowed.step, allowed.share) == (before.state, before.step, before.share)
    assert allowed.unapproved
    assert allowed.revision == before.revision + 1
    assert held(before, allowed)
    assert look_again_s(allowed, NOW) > 0
    # Approved, it goes on from there.
    again = consented(allowed, after(allowed), Approval(above=above), said("approve"), NOW)
    assert (again.state, again.step, again.unapproved) == (wanted.state, wanted.step, False)


def test_while_a_person_is_asked_it_is_judged_and_a_worse_one_goes_back():
    waiting = consented(rollout(State.CANARY), after(rollout(State.CANARY)), Approval(above=0.1), None, NOW)
    assert waiting.judgements == (GOOD,)
    for judgement, state in ((HOLD, State.CANARY), (BAD, State.ROLL_BACK)):
        wanted = judged(waiting, judgement, NOW)
        assert consented(waiting, wanted, Approval(above=0.1), None, NOW).state is state


def test_a_no_is_the_way_back_and_says_who():
    before = rollout(State.CANARY)
    back = consented(before, after(before), Approval(above=0.1), said("reject", why="not on a Friday"), NOW)
    assert back.state is State.ROLL_BACK
    assert back.reason == "rejected by ann at 2026-01-01 00:00 UTC: not on a Friday"


def test_nobody_jumps_over_a_person_who_has_to_be_asked():
    assert needs_approval(rollout(State.PROMOTE), Approval(above=0.1), None)
    assert not needs_approval(rollout(State.PROMOTE), Approval(above=0.1), said("approve"))
    assert not needs_approval(rollout(State.PROMOTE), None, None)
    assert not needs_approval(rollout(State.ROLL_BACK), Approval(), None)


def test_the_newest_answer_about_the_same_report_counts():
    first, second = said("reject", asker="d/1"), said("approve", asker="d/2")
    assert standing([first, second], "g", "d/3") is second
    assert standing([second, first], "g", "d/1") is first
    assert standing([second, first], "g", "d/3") is None, "a no is for the run that asked"
    assert standing([first], "g", "d/1", cleared=1) is None, "or until somebody clears it"
    assert standing([second], "changed", "d/2") is None


def test_an_unapproved_rollout_waits_no_longer_than_it_would_take_to_look():
    allowed = consented(rollout(State.SERVABILITY), after(rollout(State.SERVABILITY)), Approval(), None, NOW)
    assert timedelta(seconds=look_again_s(allowed, NOW)) <= timedelta(minutes=1)
