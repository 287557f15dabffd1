"""Killed with signal 9 after every single operation, one after the other, a rollout ends as one that was not; and two
at once are one."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_ml.lifecycle import rollout_operations
from airflow_ml.lifecycle.rollout import Rollout, State
from airflow_ml.lifecycle.routing import Routing
from airflow_ml.registry import champions, rollouts, routes
from airflow_ml.serving.deployment import publish
from tests.support.online import NAME
from tests.support.released import crown
from tests.support.rollouts import Base, canaried, log_requests
from tests.unit.rollout import killing
from tests.unit.rollout.conftest import SHIFTED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


def quick(base: Base) -> Base:
    """One step, and a watch window that is short."""
    base.model = canaried(shadow=True, steps=(0.5,), watch_s=0.5)
    log_requests(base.platform)
    return base


def moments(base: Base, states: list[State]) -> Iterator[killing.Moment]:
    """After each operation of these states, and after each state was saved."""
    record: Rollout | None = None
    for state in states:
        yield f"{state} 0", "saved"
        record = rollouts.current(base.platform, NAME)
        assert record is not None
        for operation in rollout_operations.operations(record):
            yield killing.of(record, operation)


def killed_at_each(base: Base, states: list[State], **params: object) -> int:
    """Run the stage again and again, each run killed one operation later; how often it was killed."""
    kills = 0
    for moment in moments(base, states):
        for _ in range(10):
            (code,), said = killing.run(base.request(**params), moment=moment)
            if code == -9:
                break
            assert said == ["done"], (moment, said)
            time.sleep(0.3)  # it is watched
        else:
            raise AssertionError(f"{moment} was never reached")
        kills += 1
        routing = routes.routing(base.platform, NAME)
        versions, labels = base.served()
        assert routing is not None
        assert set(routing.versions) <= set(versions), f"after {moment}: traffic goes to what is not loaded"
        assert set(labels.values()) <= set(versions), f"after {moment}: a label points to what is not loaded"
        assert base.history[-1] in (1, 2)
    return kills


FORWARD = [
    State.PUBLISH,
    State.LOAD,
    State.WARM_UP,
    State.SERVABILITY,
    State.SHADOW,
    State.CANARY,
    State.PROMOTE,
    State.WATCH,
    State.SETTLE,
]


def test_killed_after_every_operation_it_is_kept_all_the_same(base: Base):
    quick(base)
    assert killed_at_each(base, FORWARD, version=2, replay=True) >= 28
    said = base.run(version=2, replay=True)
    assert (said["state"], said["champion"]) == ("kept", 2)
    assert base.history == [1, 2]
    assert base.served() == ([1, 2], {"stable": 2})
    assert routes.routing(base.platform, NAME) == Routing(stable=2)


@pytest.mark.parametrize("promoted", [False, True])
def test_killed_after_every_operation_of_the_way_back_the_old_version_answers(base: Base, promoted: bool):
    quick(base)
    base.run(version=2, replay=promoted)
    base.model = canaried(shadow=True, steps=(0.5,), watch_s=60)
    state = rollouts.current(base.platform, NAME).state
    assert state is (State.WATCH if promoted else State.SHADOW)
    assert killed_at_each(base, [State.ROLL_BACK], mode="rollback", reason="no") >= 6
    said = base.run(mode="rollback", reason="no")
    assert (said["state"], said["champion"]) == ("rolled_back", 1)
    assert base.history == ([1, 2, 1] if promoted else [1])
    assert base.served() == ([1], {"stable": 1})
    assert routes.routing(base.platform, NAME) == Routing(stable=1)


def test_of_two_at_once_one_goes_and_the_other_says_so(base: Base):
    codes, said = killing.run(base.request(version=2), base.request(version=SHIFTED))
    assert codes == [0, 0]
    assert "done" in said
    other = next(each for each in said if each != "done")
    assert other.startswith("RolloutRunning: version")
    assert "is on its way" in other


@pytest.mark.parametrize("shadow", [True, False])
def test_a_champion_that_somebody_else_made_keeps_its_traffic(base: Base, shadow: bool):
    """Version 3 is promoted past the rollout of version 2, in its shadow and in its watch window."""
    quick(base)
    base.model = canaried(shadow=True, steps=(0.5,), watch_s=60)
    base.run(version=2, replay=not shadow)
    release = champions.release_of(base.platform, NAME, SHIFTED)
    publish(Path(release.saved_model.uri), Path(base.platform.serving_folder), NAME, SHIFTED)
    crown(base.platform, NAME, SHIFTED)
    said = base.run(version=2)
    assert (said["state"], said["stable"], said["champion"]) == ("rolled_back", SHIFTED, SHIFTED)
    assert "somebody promoted" in said["reason"]
    kept = [1, SHIFTED] if shadow else [SHIFTED]  # the champion before theirs, unless it is the one that went back
    assert base.served() == (kept, {"stable": SHIFTED})
    assert routes.routing(base.platform, NAME) == Routing(stable=SHIFTED)
