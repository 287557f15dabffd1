"""The routing of a model in its release record: changed by compare-and-set, and ended by the next champion."""

import json

import pytest

from airflow_ml.lifecycle.errors import BaseError, NotReleasable, RoutingMoved
from airflow_ml.lifecycle.routing import Arm, Routing
from airflow_ml.registry import routes
from airflow_ml.spec import Platform
from tests.support.released import crown, record

NAME = "small"
CANARY = Routing(stable=1, arms=(Arm(name="canary", version=2, weight=0.1),), shadow=(3,))


@pytest.fixture
def platform(tmp_path):
    platform = Platform(base=str(tmp_path))
    for version in (1, 2, 3):
        record(platform, NAME, version)
    record(platform, NAME, 4, verdict="rejected")
    crown(platform, NAME, 1)
    return platform


def test_there_is_none_without_a_champion(tmp_path):
    platform = Platform(base=str(tmp_path))
    assert routes.routing(platform, NAME) is None
    record(platform, NAME, 1)
    with pytest.raises(NotReleasable, match="no champion"):
        routes.route(platform, NAME, Routing(stable=1), Routing(stable=1))


def test_a_champion_that_nobody_routed_gets_all(platform):
    assert routes.routing(platform, NAME) == Routing(stable=1)


def test_a_change_holds_and_the_second_of_two_that_expect_the_same_is_refused(platform):
    routes.route(platform, NAME, CANARY, Routing(stable=1), reason="step 1")
    assert routes.routing(platform, NAME) == CANARY
    with pytest.raises(RoutingMoved, match="expected was"):
        routes.route(platform, NAME, Routing(stable=1, alpha=(2,)), Routing(stable=1))
    assert routes.routing(platform, NAME) == CANARY
    routes.route(platform, NAME, Routing(stable=1), CANARY)
    assert routes.routing(platform, NAME) == Routing(stable=1)


def test_the_next_champion_ends_it_and_so_does_a_rollback(platform):
    routes.route(platform, NAME, CANARY, Routing(stable=1))
    crown(platform, NAME, 2)
    assert routes.routing(platform, NAME) == Routing(stable=2)
    crown(platform, NAME, 1)
    assert routes.routing(platform, NAME) == Routing(stable=1), "the canary of the first reign stays asleep"


def test_the_way_back_is_one_write_and_the_champion_follows(platform):
    crown(platform, NAME, 2)
    routes.route(platform, NAME, Routing(stable=1), Routing(stable=2))
    assert routes.routing(platform, NAME) == Routing(stable=1)
    crown(platform, NAME, 1)
    assert routes.routing(platform, NAME) == Routing(stable=1)


def test_what_did_not_pass_gets_no_request(platform):
    for wrong in (
        Routing(stable=1, arms=(Arm(name="canary", version=4, weight=0.1),)),
        Routing(stable=1, shadow=(4,)),
        Routing(stable=1, alpha=(4,)),
        Routing(stable=1, alpha=(9,)),
    ):
        with pytest.raises(NotReleasable):
            routes.route(platform, NAME, wrong, Routing(stable=1))
    assert routes.routing(platform, NAME) == Routing(stable=1)


def _with(**changes):
    whole = {"format": 1, "reign": 1, "routing": {"stable": 1}}
    return json.dumps(whole | changes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "damaged: JSONDecodeError"),
        ("[]", "damaged: TypeError"),
        ("{}", "damaged: KeyError"),
        (_with(format=2), "format 2; this package knows 1"),
        (_with(routing={"stable": "x"}), "damaged: not a routing: stable"),
    ],
)
def test_a_damaged_file_is_told_with_the_way_out(platform, text, says):
    path = routes.path_of(platform, NAME)
    path.write_text(text)
    with pytest.raises(BaseError, match=says) as damaged:
        routes.routing(platform, NAME)
    assert damaged.value.where == str(path)
    if "format 2" not in says:
        path.unlink()
        assert routes.routing(platform, NAME) == Routing(stable=1)
