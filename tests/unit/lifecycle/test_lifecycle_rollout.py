"""The rollout as a state machine: killed anywhere and run again, it ends as if it had not been; two at once are one."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ml.lifecycle import rollout_moves as machine
from airflow_ml.lifecycle import rollout_operations, rollout_plans
from airflow_ml.lifecycle.errors import ChampionMoved, NotReleasable, RolloutRunning, ServingError
from airflow_ml.lifecycle.judging import Finding, Judgement, Verdict
from airflow_ml.lifecycle.releases import Release
from airflow_ml.lifecycle.requests import FileOutput
from airflow_ml.lifecycle.rollout import TRANSITIONS, Event, Mode, Rollout, State
from airflow_ml.lifecycle.rollout_operations import Operation
from airflow_ml.spec.serving import Canary, Judging

START = datetime(2026, 1, 1, tzinfo=UTC)
LOOK = timedelta(seconds=30)
PLAN = Canary(shadow=True, steps=(0.01, 0.5), watch_s=60)


def release(version: int, verdict: str = "passed") -> Release:
    file = FileOutput(uri=f"/r/{version}", sha256=f"{version:064x}")
    return Release(
        model="m", version=version, verdict=verdict, saved_model=file, gate_report=file, golden=file, reference=file,
        statistics=file, signature={}, training_fingerprint="f",
    )  # fmt: skip


def judgement(verdict: Verdict, starved: bool = False) -> Judgement:
    found = Finding(
        criterion="errors", verdict=verdict, stable=0.0, candidate=0.0, limit=0.1, low=0.0, high=0.0, text=""
    )  # fmt: skip
    return Judgement(
        verdict=verdict,
        findings=(found,),
        stable_requests=9,
        candidate_requests=9,
        waited_s=1.0,
        reason=str(verdict),
        starved=starved,
    )


class Killed(BaseException):
    """Signal 9."""


@dataclass
class World:
    """Servers, gateway, champion and record; every change is a moment at which the process may die."""

    champion: int | None = 1
    record: Rollout | None = None
    published: set[int] = field(default_factory=lambda: {1})
    loaded: set[int] = field(default_factory=lambda: {1})
    probed: set[int] = field(default_factory=lambda: {1})
    labels: dict[str, int] = field(default_factory=lambda: {"stable": 1})
    routing: dict | None = field(default_factory=lambda: {"stable": 1})
    foreign: tuple[str, ...] = ("other", "its labels")
    now: datetime = START
    changes: int = 0
    die_at: int | None = None
    shares: list[float] = field(default_factory=list)

    def changed(self) -> None:
        """A change is there; what must always be true is looked at."""
        self.changes += 1
        asked = set()
        if self.routing:
            asked = {self.routing["stable"], *(arm["version"] for arm in self.routing.get("arms", ()))}
            asked |= set(self.routing.get("shadow", ()))
        assert asked <= self.loaded, "traffic goes to what is not loaded"
        assert asked <= self.probed, "traffic goes to what nobody probed"
        assert set(self.labels.values()) <= self.loaded, "a label points to what is not loaded"
        if self.champion is not None:
            assert self.champion in self.probed, "the champion was never probed"
        if self.die_at == self.changes:
            raise Killed

    def do(self, operation: Operation, verdicts: list[Judgement], fails: set[tuple[State, str]]) -> Judgement | None:
        """As the real ones do it: again and again without harm."""
        assert self.record is not None
        if (self.record.state, operation.kind) in fails:
            raise ServingError("it does not work")
        match operation.kind:
            case "publish":
                self.published.add(operation.version)
            case "serve":
                assert set(operation.versions) <= self.published
                for version in set(operation.versions) - self.loaded:
                    self.loaded.add(version)
                    self.changed()
                assert not set(self.labels.values()) - set(operation.versions), "a label would hang"
                self.loaded = set(operation.versions)
            case "await":
                assert operation.version in self.loaded
            case "warm_up":
                assert operation.version in self.loaded
            case "probe":
                self.probed.add(operation.version)
            case "label" if operation.version is None:
                self.labels.pop(operation.label, None)
            case "label":
                self.labels[operation.label] = operation.version
            case "route":
                found = operation.routing
                self.routing = None if found is None else found.model_dump(mode="json", exclude_defaults=True)
                self.shares.append(found.arms[0].weight if found is not None and found.arms else 0.0)
            case "promote" if self.champion != operation.version:
                if self.champion != operation.expected:
                    raise ChampionMoved(f"the champion is version {self.champion}")
                self.champion = operation.version
            case "judge":
                return verdicts.pop(0) if verdicts else judgement(Verdict.PROMOTE)
        self.changed()
        return None

    def save(self, new: Rollout) -> None:
        """Compare-and-set of the record."""
        assert self.record is None or new.revision == self.record.revision + 1
        self.record = new
        self.changed()


def drive(
    world: World, verdicts: list[Judgement] | None = None, fails: set[tuple[State, str]] | None = None
) -> Rollout:
    """Run what the record says until it ends: the loop of whoever carries a rollout out."""
    while world.record is not None and world.record.open:
        now, judged = world.record, None
        world.now += LOOK
        try:
            for operation in rollout_operations.operations(now):
                judged = world.do(operation, verdicts or [], fails or set()) or judged
        except ChampionMoved as error:
            world.save(machine.failed(now, str(error), world.now, world.champion))
            continue
        except ServingError as error:
            world.save(machine.failed(now, str(error), world.now))
            continue
        world.save(machine.judged(now, judged, world.now) if judged else machine.done(now, world.now))
    assert world.record is not None
    return world.record


def begun(world: World, version: int = 2, plan: Canary = PLAN) -> World:
    world.save(rollout_plans.begin(release(version), world.champion, plan, world.now, by="ann", why="better"))
    return world


def outcome(world: World) -> dict:
    assert world.record is not None
    return {
        "state": world.record.state,
        "champion": world.champion,
        "loaded": world.loaded,
        "labels": world.labels,
        "routing": world.routing,
        "foreign": world.foreign,
    }


KEPT = {
    "state": State.KEPT, "champion": 2, "loaded": {2}, "labels": {"stable": 2}, "routing": {"stable": 2},
    "foreign": ("other", "its labels"),
}  # fmt: skip
BACK = {
    "state": State.ROLLED_BACK, "champion": 1, "loaded": {1}, "labels": {"stable": 1}, "routing": {"stable": 1},
    "foreign": ("other", "its labels"),
}  # fmt: skip


# --- the ways -------------------------------------------------------------------------------------------------------


def test_a_good_release_takes_all_traffic_step_by_step():
    world = begun(World())
    held = [judgement(Verdict.HOLD), judgement(Verdict.PROMOTE), judgement(Verdict.HOLD)]
    assert drive(world, held).state is State.KEPT
    assert outcome(world) == KEPT
    rising = [share for share in world.shares if share]
    assert rising == sorted(rising)
    assert set(rising) == {0.01, 0.5}
    assert len(world.record.judgements) == 7  # two of shadow, one more held, two steps, two while watched
    assert world.record.by == "ann"


@pytest.mark.parametrize("looks", range(5))
def test_a_bad_verdict_at_any_look_brings_the_old_version_back(looks):
    """Shadow, both canary steps, and twice in the watch window after promotion."""
    world = begun(World())
    drive(world, [judgement(Verdict.PROMOTE)] * looks + [judgement(Verdict.ROLL_BACK)])
    assert outcome(world) == BACK
    assert world.record.reason == "roll_back"


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (State.PUBLISH, "publish"),
        (State.LOAD, "serve"),
        (State.LOAD, "await"),
        (State.WARM_UP, "warm_up"),
        (State.SERVABILITY, "probe"),
        (State.SHADOW, "label"),
        (State.CANARY, "route"),
        (State.PROMOTE, "promote"),
        (State.PROMOTE, "label"),
        (State.WATCH, "route"),
    ],
)
def test_whatever_fails_for_good_the_old_version_answers(state, kind):
    world = begun(World())
    drive(world, fails={(state, kind)})
    assert outcome(world) == BACK
    assert world.record.reason == "it does not work"


def test_the_way_back_begins_with_the_traffic():
    way = [begun(World()).record.model_copy(update={"state": State.ROLL_BACK})]
    kinds = [operation.kind for operation in rollout_operations.operations(way[0])]
    assert kinds[0] == "route"
    assert kinds[-1] == "serve", "memory is freed when nothing else is left to do"


def test_the_old_version_stays_loaded_until_the_watch_is_over():
    world = begun(World())
    seen = []
    while world.record.open:
        seen.append((world.record.state, rollout_operations.versions(world.record)))
        now = world.record
        for operation in rollout_operations.operations(now):
            world.do(operation, [], set())
        world.now += LOOK
        good = judgement(Verdict.PROMOTE)
        watched = now.state in (State.SHADOW, State.CANARY, State.WATCH)
        world.save(machine.judged(now, good, world.now) if watched else machine.done(now, world.now))
    assert {versions for state, versions in seen if state is not State.SETTLE} == {(1, 2)}
    assert seen[-1] == (State.SETTLE, (2,))


def test_few_requests_in_the_watch_window_are_no_reason_to_go_back():
    """Too few to judge by is a verdict against a canary, not against who has passed all steps."""
    world = begun(World(), plan=Canary(shadow=False, steps=(0.5,), watch_s=90))
    few = judgement(Verdict.ROLL_BACK, starved=True)
    drive(world, [judgement(Verdict.PROMOTE), few, few, few])
    assert outcome(world) == KEPT
    world = begun(World(), plan=Canary(shadow=False, steps=(0.5,), watch_s=90))
    drive(world, [few])
    assert outcome(world) == BACK


def test_the_first_release_of_a_model_has_nobody_to_be_compared_with():
    world = World(champion=None, published=set(), loaded=set(), probed=set(), labels={}, routing=None)
    drive(begun(world))
    assert outcome(world) == KEPT
    assert world.shares == [0.0, 0.0], "promoted and settled; no share in between"
    world = World(champion=None, published=set(), loaded=set(), probed=set(), labels={}, routing=None)
    drive(begun(world), fails={(State.SERVABILITY, "probe")})
    assert (world.champion, world.loaded, world.labels, world.routing) == (None, set(), {}, None)


def test_without_steps_it_is_promoted_at_once():
    world = begun(World(), plan=Canary(shadow=False, steps=(), watch_s=0))
    drive(world)
    assert outcome(world) == KEPT
    assert not world.record.judgements


@pytest.mark.parametrize("declared", ["continue", "roll_back"])
def test_a_task_that_is_stopped_leaves_what_is_declared(declared):
    plan = PLAN.model_copy(update={"interrupted": declared})
    for state in State:
        if state in (State.KEPT, State.ROLLED_BACK):
            continue
        world = begun(World(), plan=plan)
        stopped = machine.interrupted(world.record.model_copy(update={"state": state}), START)
        gives_back = declared == "roll_back" and state in (State.SHADOW, State.CANARY)
        assert stopped.state is (State.ROLL_BACK if gives_back else state)


# --- killed ---------------------------------------------------------------------------------------------------------

VERDICTS = st.lists(
    st.sampled_from([judgement(Verdict.PROMOTE), judgement(Verdict.HOLD), judgement(Verdict.ROLL_BACK)]), max_size=8
)
PLANS = st.sampled_from(
    [PLAN, Canary(shadow=False, steps=(), watch_s=0), Canary(steps=(0.1,), watch_s=0), Canary(shadow=False, watch_s=45)]
)
FAILS = st.sets(
    st.sampled_from([(State.LOAD, "await"), (State.SERVABILITY, "probe"), (State.PROMOTE, "label")]), max_size=1
)


@settings(max_examples=150, deadline=None)
@given(plan=PLANS, verdicts=VERDICTS, fails=FAILS, kills=st.lists(st.integers(1, 12), max_size=6))
def test_killed_anywhere_and_run_again_it_ends_right(plan, verdicts, fails, kills):
    """`kills`: changes after which each run dies. The verdicts are what the arms do, not what a run remembers."""
    straight = begun(World(), plan=plan)
    drive(straight, list(verdicts), fails)
    left = list(verdicts)
    world = begun(World(), plan=plan)
    for kill in kills:
        world.die_at = world.changes + kill
        try:
            drive(world, left, fails)
        except Killed:
            continue
        break
    world.die_at = None
    drive(world, left, fails)
    back = any(v.verdict is Verdict.ROLL_BACK for v in verdicts) or bool(fails)
    assert world.record.state in (State.KEPT, State.ROLLED_BACK)
    assert outcome(world) in (KEPT, BACK)
    if not back:
        assert outcome(world) == KEPT
    if fails:
        assert outcome(world) == outcome(straight) == BACK


def test_killed_at_each_single_change():
    """Not only where chance looks: at every change of the whole way, there and back."""
    for verdicts, expected in (([], KEPT), ([judgement(Verdict.PROMOTE)] * 3 + [judgement(Verdict.ROLL_BACK)], BACK)):
        total = begun(World())
        first = total.changes
        drive(total, list(verdicts))
        for change in range(first + 1, total.changes + 1):
            # a verdict that was looked at, and not written before the kill, is looked at again
            world = begun(World(die_at=change))
            left = list(verdicts)
            with pytest.raises(Killed):
                drive(world, left)
            world.die_at = None
            looked = len(world.record.judgements)
            drive(world, list(verdicts)[looked:])
            assert outcome(world) == expected, f"killed at change {change}"


# --- two at once ----------------------------------------------------------------------------------------------------


def test_two_releases_at_once_are_one_and_a_word_to_the_other():
    world = begun(World())
    while world.record.open:
        with pytest.raises(RolloutRunning, match=f"version 2 is on its way \\({world.record.state}\\)") as raised:
            rollout_plans.begin(release(3), world.champion, PLAN, world.now, running=world.record)
        assert "version 3" in raised.value.where
        assert rollout_plans.begin(release(2), world.champion, PLAN, world.now, running=world.record) is world.record
        now = world.record
        judged = None
        for operation in rollout_operations.operations(now):
            judged = world.do(operation, [], set()) or judged
        world.now += LOOK
        world.save(machine.judged(now, judged, world.now) if judged else machine.done(now, world.now))
    after = rollout_plans.begin(release(3), world.champion, PLAN, world.now, running=world.record)
    assert (after.stable, after.state) == (2, State.PUBLISH)
    assert after.revision == world.record.revision + 1


@pytest.mark.parametrize("at", [State.PUBLISH, State.SHADOW, State.CANARY, State.PROMOTE])
def test_who_was_overtaken_gives_way_to_who_was_faster(at):
    """Somebody promotes version 7 past the rollout, with its own load and probe: traffic ends there, not at 1 or 2."""
    world = begun(World())
    while world.record.state is not at:
        now, judged = world.record, None
        for operation in rollout_operations.operations(now):
            judged = world.do(operation, [], set()) or judged
        world.now += LOOK
        world.save(machine.judged(now, judged, world.now) if judged else machine.done(now, world.now))
    world.published.add(7)
    world.probed.add(7)
    world.champion = 7
    drive(world)
    assert world.record.state is State.ROLLED_BACK
    assert world.record.overtaken_by == 7
    assert (world.champion, world.loaded, world.labels, world.routing) == (7, {7}, {"stable": 7}, {"stable": 7})


# --- what may not be ------------------------------------------------------------------------------------------------


def test_a_rejected_release_does_not_begin():
    with pytest.raises(NotReleasable):
        rollout_plans.begin(release(2, "rejected"), 1, PLAN, START)


def test_moves_that_do_not_exist():
    first = begun(World()).record
    with pytest.raises(ValueError, match="not judged"):
        machine.judged(first, judgement(Verdict.PROMOTE), START)
    shadow = first.model_copy(update={"state": State.SHADOW})
    with pytest.raises(ValueError, match="ends with a judgement"):
        machine.done(shadow, START)
    for end in (State.KEPT, State.ROLLED_BACK, State.ROLL_BACK, State.SETTLE):
        with pytest.raises(ValueError, match="nothing follows failed"):
            machine.failed(first.model_copy(update={"state": end}), "x", START)
        if end in (State.KEPT, State.ROLLED_BACK):
            assert rollout_operations.operations(first.model_copy(update={"state": end})) == ()


def test_every_state_is_reached_and_left():
    into, out_of = set(TRANSITIONS.values()), {state for state, _ in TRANSITIONS}
    assert into | {State.PUBLISH} == set(State)
    assert set(State) - out_of == {State.KEPT, State.ROLLED_BACK}
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_the_record_survives_its_file():
    world = begun(World())
    drive(world, [judgement(Verdict.HOLD)])
    assert Rollout.model_validate_json(world.record.model_dump_json()) == world.record


@pytest.mark.parametrize("steps", [(0.5, 0.1), (0.1, 0.1), (0.0,), (1.0,), (-0.1,)])
def test_steps_rise_between_nothing_and_all(steps):
    with pytest.raises(ValueError, match="steps"):
        Canary(steps=steps)
    assert Judging().min_requests > 0


# --- as it is asked for ---------------------------------------------------------------------------------------------


def at(state: State, mode: Mode = "declared", **changes) -> Rollout:
    begun_ = rollout_plans.begin(release(2), 1, PLAN, START, mode=mode)
    return begun_.model_copy(update={"state": state, **changes})


@pytest.mark.parametrize(
    ("declared", "mode", "steps", "shadow", "shares", "watch_s"),
    [
        (None, "declared", None, False, (), 0.0),
        (PLAN, "declared", None, True, (0.01, 0.5), 60.0),
        (PLAN, "declared", (0.3,), True, (0.3,), 60.0),
        (None, "canary", None, True, (0.01, 0.1, 0.5), 600.0),
        (PLAN, "at_once", None, False, (), 60.0),
        (PLAN, "rollback", None, False, (), 0.0),
        (PLAN.model_copy(update={"shadow": False}), "shadow", None, True, (0.01, 0.5), 60.0),
    ],
)
def test_the_plan_follows_from_what_is_declared_and_asked_for(declared, mode, steps, shadow, shares, watch_s):
    plan = rollout_plans.planned(declared, mode, steps)
    assert (plan.shadow, plan.steps, plan.watch_s) == (shadow, shares, watch_s)


def test_a_shadow_is_never_promoted_by_itself_nor_for_want_of_requests_ended():
    shadow = at(State.SHADOW, "shadow")
    for verdict in (judgement(Verdict.PROMOTE), judgement(Verdict.HOLD), judgement(Verdict.ROLL_BACK, starved=True)):
        after = machine.judged(shadow, verdict, START + 1000 * LOOK)
        assert machine.held(shadow, after)
    assert machine.judged(shadow, judgement(Verdict.ROLL_BACK), START).state is State.ROLL_BACK
    with pytest.raises(NotReleasable, match="no other champion"):
        rollout_plans.begin(release(2), None, PLAN, START, mode="shadow")


@pytest.mark.parametrize(
    ("state", "mode", "asked", "steps", "then"),
    [
        (State.SHADOW, "shadow", "canary", (0.1,), (State.SHADOW, 0)),
        (State.SHADOW, "shadow", "at_once", None, (State.PROMOTE, 0)),
        (State.LOAD, "shadow", "at_once", None, (State.LOAD, 0)),
        (State.CANARY, "declared", "at_once", None, (State.PROMOTE, 0)),
        (State.CANARY, "declared", "shadow", None, (State.CANARY, 1)),
        (State.CANARY, "canary", "declared", (0.9,), (State.CANARY, 1)),
        (State.WATCH, "declared", "at_once", None, (State.WATCH, 1)),
        (State.ROLL_BACK, "declared", "at_once", None, (State.ROLL_BACK, 1)),
    ],
)
def test_a_rollout_that_runs_can_be_asked_to_go_further_and_never_less_far(state, mode, asked, steps, then):
    running = at(state, mode, step=0 if mode == "shadow" else 1)
    plan = rollout_plans.planned(PLAN, asked, steps)
    after = rollout_plans.begin(release(2), 1, plan, START + LOOK, mode=asked, running=running)
    assert (after.state, after.step) == then
    assert after is running or after.revision == running.revision + 1


def test_what_failed_may_be_tried_again_and_what_was_bad_may_not():
    failed = machine.done(machine.failed(at(State.LOAD), "no disk", START), START)
    bad = machine.done(machine.judged(at(State.CANARY), judgement(Verdict.ROLL_BACK), START), START)
    unwanted = machine.done(machine.recalled(at(State.CANARY), START, by="ann", why="no"), START)
    assert [each.found_bad for each in (failed, bad, unwanted)] == [False, True, True]
    assert unwanted.reason == "rolled back by ann: no"


def test_who_waits_looks_twenty_times_at_each_step_and_not_after_the_watch_is_over():
    held = at(State.CANARY)
    assert machine.look_again_s(held, START) == 30.0  # of an hour at most
    assert machine.look_again_s(at(State.WATCH), START) == 3.0
    assert machine.look_again_s(at(State.WATCH), START + timedelta(seconds=58.5)) == 1.5
    assert machine.look_again_s(at(State.WATCH), START + timedelta(seconds=70)) == 1.0
    assert machine.look_again_s(at(State.PROMOTE), START) == 0.0


def test_a_way_back_to_a_version_that_is_loaded_begins_with_its_traffic():
    back = rollout_plans.begin(
        release(1), 2, rollout_plans.planned(PLAN, "rollback"), START, mode="rollback", by_hand=True
    )
    assert back.state is State.PUBLISH
    first = rollout_operations.operations(rollout_plans.straight_back(back))[0]
    assert (first.kind, first.version, first.expected) == ("promote", 1, 2)
    assert not machine.gives_up(rollout_plans.straight_back(back)), "it is not left for the version that it replaces"
