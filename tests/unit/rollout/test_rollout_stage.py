"""The stage `rollout` before a real model server: what each run does, leaves behind and says."""

import json
import signal
from functools import partial

import pytest
from typer.testing import CliRunner

from airflow_ml.cli import app
from airflow_ml.lifecycle.errors import NotReleasable, RolloutRunning, SpecError
from airflow_ml.lifecycle.rollout import State
from airflow_ml.lifecycle.routing import Routing
from airflow_ml.registry import champions, rollouts, routes
from airflow_ml.stages import _rollout_wishes
from airflow_ml.stages._rollout_server import serving
from airflow_ml.stages.context import StageContext
from airflow_ml.stages.rollout import giving_back
from tests.support.online import NAME
from tests.support.rollouts import Base, canaried, log_requests
from tests.unit.rollout.conftest import BROKEN, SHIFTED

pytestmark = pytest.mark.slow


def test_from_publish_to_the_first_look_that_holds(base: Base):
    said = base.run(version=2, by="ann", reason="it is better")
    assert (said["state"], said["open"], said["verdict"], said["stable"]) == ("shadow", True, "hold", 1)
    assert said["look_again_s"] == 1.0
    assert (said["by"], said["why"], said["champion"]) == ("ann", "it is better", 1)
    assert routes.routing(base.platform, NAME) == Routing(stable=1, shadow=(2,))
    assert base.served() == ([1, 2], {"stable": 1, "canary": 2})
    again = base.run(version=2, by="ann", reason="it is better")
    assert (again["state"], again["revision"]) == ("shadow", said["revision"] + 1), "it was looked at, and not reused"


def test_logged_requests_are_replayed_where_none_are_live(base: Base):
    log_requests(base.platform)
    said = base.run(version=2, replay=True)
    assert (said["state"], said["share"]) == ("watch", 1.0), said
    judged = rollouts.current(base.platform, NAME).judgements
    assert [each.replayed for each in judged] == [60, 60, 60, 0], "shadow, two steps; what is watched has live traffic"
    assert base.history == [1, 2]
    said = base.run_until_ended(version=2, replay=True)
    assert (said["state"], said["champion"], said["previous_champion"]) == ("kept", 2, 1)
    assert base.served() == ([1, 2], {"stable": 2}), "the one before stays loaded: the gateway falls back to it"
    assert [each.version for each in rollouts.ended(base.platform, NAME)] == [2, 1]
    assert base.run(version=2, replay=True) == said


def test_shifted_scores_go_back_with_their_numbers(base: Base):
    log_requests(base.platform)
    said = base.run(version=SHIFTED, replay=True)
    assert (said["state"], said["open"], said["champion"]) == ("rolled_back", False, 1)
    assert said["reason"].startswith("scores moved by")
    assert said["numbers"]["replayed"] == 60
    assert said["numbers"]["scores_candidate"] > said["numbers"]["scores_limit"]
    assert base.served() == ([1], {"stable": 1})
    assert routes.routing(base.platform, NAME) == Routing(stable=1)


def test_what_no_server_loads_goes_back(base: Base):
    said = base.run(version=BROKEN)
    assert (said["state"], said["champion"]) == ("rolled_back", 1)
    assert "could not load" in said["reason"]
    assert base.served() == ([1], {"stable": 1})


def test_two_versions_at_once_are_one_and_a_word_to_the_other(base: Base):
    base.run(version=2)
    with pytest.raises(RolloutRunning, match="version 2 is on its way"):
        base.run(version=SHIFTED)


def test_a_shadow_waits_for_a_person_and_goes_further_when_asked(base: Base):
    log_requests(base.platform)
    said = base.run(version=2, mode="shadow", replay=True)
    assert (said["state"], said["verdict"], said["open"]) == ("shadow", "promote", True)
    assert base.run(version=2, mode="shadow", replay=True)["state"] == "shadow"
    assert base.run(version=2, mode="canary", steps=[0.2], replay=True)["state"] == "watch"
    assert base.run(version=2, mode="shadow")["champion"] == 2, "who waited for the shadow does not turn it back"


def test_back_from_the_way_and_back_to_the_champion_before(base: Base, monkeypatch: pytest.MonkeyPatch):
    base.run(version=2)
    said = base.run(mode="rollback", by="bob", reason="no")
    assert (said["state"], said["reason"]) == ("rolled_back", "rolled back by bob: no")
    assert base.history == [1]
    base.run(version=2, mode="at_once")
    base.run_until_ended(version=2, mode="at_once")
    assert base.history == [1, 2]
    said = base.run(mode="rollback", by="eve")
    assert (said["state"], said["version"], said["champion"]) == ("kept", 1, 1)
    assert base.served() == ([1], {"stable": 1})
    again = base.run(mode="rollback", by="bob")
    assert again["champion"] == 1, "two who press the button go back once"
    assert again["note"].startswith("nothing was done: the traffic is back on version 1 since ")
    assert " by eve, and rollbacks within 300 s are one" in again["note"]
    assert champions.before(base.platform, NAME) is None
    monkeypatch.setattr(_rollout_wishes, "_SAME_WISH_S", 0.0)
    with pytest.raises(NotReleasable, match="no champion before"):
        base.run(mode="rollback", by="bob")


def test_what_may_not_be(base: Base):
    with pytest.raises(SpecError, match="no such mode"):
        base.run(version=2, mode="yolo")
    with pytest.raises(SpecError, match="do not rise"):
        base.run(version=2, steps=[0.5, 0.1])
    with pytest.raises(NotReleasable, match="no champion before"):
        base.run(mode="rollback")


@pytest.mark.parametrize(("declared", "state"), [("continue", State.SHADOW), ("roll_back", State.ROLLED_BACK)])
def test_told_to_stop_it_leaves_what_is_declared(base: Base, declared: str, state: State):
    base.model = canaried(interrupted=declared)
    base.run(version=2)
    ctx = StageContext(base.request(version=2))
    with serving(ctx) as server, pytest.raises(SystemExit), giving_back(ctx, server):
        signal.raise_signal(signal.SIGTERM)
    assert rollouts.current(base.platform, NAME).state is state
    shadow = (2,) if state is State.SHADOW else ()
    assert routes.routing(base.platform, NAME) == Routing(stable=1, shadow=shadow)


def test_from_the_command_line(base: Base, monkeypatch: pytest.MonkeyPatch):
    for name, value in {
        "BASE": base.platform.base,
        "SERVING_FOLDER": base.platform.serving_folder,
        "SERVING_GRPC": base.platform.serving.grpc,
        "SERVING_REST": base.platform.serving.rest,
    }.items():
        monkeypatch.setenv(f"AIRFLOW_ML_{name}", value)
    log_requests(base.platform)
    run = partial(CliRunner().invoke, app)
    model = "tests.support.rollouts:model"
    done = run(["run", "rollout", model, "--param", "version=2", "--param", "replay=true"])
    assert done.exit_code == 0, done.output
    assert "version 2: watch, 100% of the traffic; " in done.output
    assert "state: kept" in done.output
    assert "rollout (ended): version 2 kept, 100% of the traffic, stable 1" in run(["status", model]).output
    back = run(["rollback", model, "--reason", "a test"])
    assert back.exit_code == 0, back.output
    assert base.history == [1, 2, 1]
    assert json.loads(run(["status", model, "--json"]).output)["rollout"]["why"] == "a test"
    again = run(["rollback", model])
    assert (again.exit_code, base.history) == (0, [1, 2, 1]), "it is back already"
    assert "note: nothing was done: the traffic is back on version 1" in again.output
