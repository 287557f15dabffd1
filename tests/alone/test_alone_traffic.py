"""Five rollouts under 200 requests a second: nobody who asks the stable version notices, and the bad ones go by
themselves."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_ml.registry import rollouts
from airflow_ml.serving.sandbox import RunningServer
from airflow_ml.spec import Platform
from tests.support.live_rollouts import (
    CRASHES,
    GOOD,
    NAN,
    RATE,
    SHIFTED,
    SHIFTS,
    SLOW,
    Seen,
    flowing,
    model,
    roll_back,
    roll_out,
    saved_models,
)
from tests.support.online import NAME
from tests.support.rollouts import Base, crown_first, register
from tests.unit.rollout.conftest import an_empty_server, emptied, target_of

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(300)]

BY_COMMAND = 0
"""The rollback of the good one, by hand."""

BACK_S = 10.0
"""From the verdict to all traffic on the old version, at most."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, RunningServer]]:
    """Not the one of the other tests: a server remembers which versions it could not load, and numbers are the same."""
    with an_empty_server(tmp_path_factory.mktemp("live_serving")) as found:
        yield found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, server: tuple[Path, RunningServer]) -> Iterator[dict[int, Seen]]:
    """All five, one after the other, before one server and one gateway; the good one last, who then rules."""
    tmp = tmp_path_factory.mktemp("live")
    platform = Platform(base=str(tmp / "base"), serving=target_of(server))
    register(platform, saved_models(tmp / "made"), SHIFTS)
    base = Base(model, platform)
    with emptied(server):
        crown_first(base)
        with flowing(platform) as clients:
            time.sleep(1)
            found = {version: roll_out(base, clients, version) for version in (CRASHES, NAN, SLOW, SHIFTED, GOOD)}
            found[BY_COMMAND] = roll_back(base, clients, GOOD)
        assert base.history == [1, GOOD, 1]
        assert [each.version for each in rollouts.ended(platform, NAME)][1:6] == [GOOD, SHIFTED, SLOW, NAN, CRASHES]
        yield found


@pytest.mark.parametrize("version", [GOOD, SLOW, NAN, CRASHES, SHIFTED, BY_COMMAND])
def test_the_stable_arm_has_no_failed_request(seen: dict[int, Seen], version: int):
    found = seen[version]
    assert not found.failed
    assert found.stable_rescued == 0
    assert found.requests > RATE / 2 * found.took_s, "requests flowed all the time"


def test_the_good_one_takes_all_traffic(seen: dict[int, Seen]):
    assert seen[GOOD].summary["state"] == "kept", seen[GOOD].summary
    assert seen[GOOD].canary > 100


@pytest.mark.parametrize(
    ("version", "because"),
    [(SLOW, "p99"), (NAN, "errors"), (CRASHES, "could not load"), (SHIFTED, "scores moved by")],
)
def test_a_bad_one_is_back_by_itself_in_seconds(seen: dict[int, Seen], version: int, because: str):
    found = seen[version]
    assert found.summary["state"] == "rolled_back", found.summary
    assert re.search(because, found.summary["reason"])
    assert found.back_s is not None
    assert found.back_s <= BACK_S
    assert (found.canary > 0) == (version != CRASHES)


def test_one_command_brings_the_old_version_back_in_seconds(seen: dict[int, Seen]):
    assert seen[BY_COMMAND].back_s is not None
    assert 0 < seen[BY_COMMAND].back_s <= BACK_S
