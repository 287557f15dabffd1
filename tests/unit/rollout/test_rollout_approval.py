"""A rollout that a person has to approve, before a real model server: how far it goes without one."""

from datetime import UTC, datetime

import pytest

from airflow_ml.lifecycle.approvals import Answer
from airflow_ml.lifecycle.errors import NotReleasable
from airflow_ml.registry import approvals, champions, routes
from airflow_ml.spec import Approval
from airflow_ml.stages.runner import execute
from tests.support.online import NAME
from tests.support.rollouts import Base, log_requests

pytestmark = pytest.mark.slow


def asked(base: Base, above: float) -> Base:
    """The same, with a person who is asked above a share."""
    return Base(base.model.model_copy(update={"approval": Approval(above=above)}), base.platform)


def answer(base: Base, version: int, option: str) -> None:
    report = champions.release_of(base.platform, NAME, version).gate_report.sha256
    said = Answer(version=version, gate_report=report, option=option, by="ann", why="seen it", at=datetime.now(UTC))
    approvals.record(base.platform, NAME, said)


def test_a_canary_waits_for_a_person_above_its_share_and_goes_on_with_a_yes(base: Base):
    base = asked(base, above=0.2)
    log_requests(base.platform)
    said = base.run(version=2, replay=True)
    assert (said["state"], said["share"], said["waits_for"], said["verdict"]) == ("canary", 0.1, "approval", "promote")
    assert said["look_again_s"] > 0
    again = base.run(version=2, replay=True)
    assert (again["share"], again["waits_for"], again["champion"]) == (0.1, "approval", 1), "and is looked at meanwhile"
    with pytest.raises(NotReleasable, match="a person has to approve it first"):
        base.run(version=2, mode="at_once")
    answer(base, 2, "approve")
    said = base.run(version=2, replay=True)
    assert (said["state"], said["share"], said["waits_for"], said["champion"]) == ("watch", 1.0, "", 2)


def test_without_a_yes_nothing_gets_traffic_and_a_no_takes_it_back(base: Base):
    base = asked(base, above=0.0)
    said = base.run(version=2, mode="at_once")
    assert (said["state"], said["share"], said["waits_for"], said["champion"]) == ("servability", 0.0, "approval", 1)
    assert said["look_again_s"] > 0
    answer(base, 2, "reject")
    said = base.run(version=2, mode="at_once")
    assert (said["state"], said["open"], said["champion"]) == ("rolled_back", False, 1)
    assert said["reason"].startswith("rejected by ann at ")
    assert routes.routing(base.platform, NAME).versions == (1,)
    with pytest.raises(NotReleasable, match="a person has to approve it first"):
        execute(base.request(version=2).model_copy(update={"stage": "release"}))


def test_the_way_back_is_nobodys_to_approve(base: Base):
    base.run(version=2, mode="at_once")
    base = asked(base, above=0.0)
    assert base.run(mode="rollback")["champion"] == 1
