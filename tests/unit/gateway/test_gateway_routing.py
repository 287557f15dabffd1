"""The routing value: refused where it makes no sense, and a split that is exact, sticky and equal in every process."""

import json
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ml.lifecycle.errors import NotRouted, SpecError
from airflow_ml.lifecycle.routing import Arm, Experiment, Route, Routing, route

A, B = (f'{{"name": "{name}", "version": 2, "weight": %s}}' for name in "ab")

USERS = [f"user-{n}" for n in range(4000)]


def canary(weight: float, version: int = 2) -> Routing:
    return Routing(stable=1, arms=(Arm(name="canary", version=version, weight=weight),))


def arms_of(routing: Routing, users: list[str], **asked) -> dict[str, str]:
    return {user: route(routing, "m", user, **asked).arm for user in users}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "Invalid JSON"),
        ("{}", "stable: Field required"),
        ('{"stable": 0}', "stable: .*greater than or equal to 1"),
        ('{"stable": 1, "arm": []}', "arm: Extra inputs"),
        ('{"stable": 1, "arms": [{"name": "canary", "version": 2, "weight": 1.1}]}', "arms.0.weight"),
        ('{"stable": 1, "arms": [{"name": "stable", "version": 2, "weight": 0.1}]}', "give this one another name"),
        ('{"stable": 1, "arms": [{"name": "Canary!", "version": 2, "weight": 0.1}]}', "not a usable name"),
        (f'{{"stable": 1, "arms": [{A % 0.6}, {B % 0.6}]}}', r"weights sum to 1\.2; at most 1"),
        (f'{{"stable": 1, "arms": [{A % 0.1}, {A % 0.1}]}}', "a named twice"),
        ('{"stable": 1, "shadow": [2, 2]}', "shadow: 2 named twice"),
        ('{"stable": 1, "shadow": [1]}', "is stable and answers already"),
        (
            f'{{"stable": 1, "experiments": [{{"name": "e", "arms": [{A % 0.5}, {B % 0.4}]}}]}}',
            r"experiment 'e': the weights sum to 0\.9; make it 1",
        ),
        (f'{{"stable": 1, "experiments": [{{"name": "e", "arms": [{A % 1}]}}]}}', "experiments.0.arms"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_field(text, says):
    with pytest.raises(SpecError, match=says) as refused:
        Routing.from_json(text, where="routing.json")
    assert refused.value.where == "routing.json"
    assert refused.value.remedy


def test_json_there_and_back():
    full = Routing(
        stable=3,
        arms=(Arm(name="canary", version=4, weight=0.1),),
        shadow=(5,),
        experiments=(
            Experiment(
                name="prices",
                arms=(Arm(name="control", version=3, weight=0.5), Arm(name="treatment", version=6, weight=0.5)),
            ),
        ),
        alpha=(7,),
    )
    assert Routing.from_json(full.model_dump_json()) == full
    assert full.versions == (3, 4, 6, 5, 7)


def test_all_is_stable_where_nothing_is_said():
    assert route(Routing(stable=3), "m", "anybody") == Route("stable", 3)


@pytest.mark.parametrize("weight", [0.01, 0.1, 0.5])
def test_an_arm_gets_its_share(weight):
    share = Counter(arms_of(canary(weight), USERS).values())["canary"] / len(USERS)
    assert abs(share - weight) < 4 * (weight * (1 - weight) / len(USERS)) ** 0.5


def test_the_ends_of_the_scale():
    assert set(arms_of(canary(0), USERS[:300]).values()) == {"stable"}
    assert set(arms_of(canary(1), USERS[:300]).values()) == {"canary"}
    tenths = Routing(stable=1, arms=tuple(Arm(name=f"a{n}", version=n + 2, weight=0.1) for n in range(10)))
    assert "stable" not in arms_of(tenths, USERS[:300]).values()


weights = st.floats(0, 1).map(lambda w: round(w, 4))


@given(low=weights, high=weights)
@settings(max_examples=40, deadline=None)
def test_nobody_leaves_an_arm_that_grows(low, high):
    low, high = sorted((low, high))
    before, after = arms_of(canary(low), USERS[:400]), arms_of(canary(high), USERS[:400])
    assert {user for user, arm in before.items() if arm == "canary"} <= {
        user for user, arm in after.items() if arm == "canary"
    }


@given(first=weights, second=weights, growth=weights)
@settings(max_examples=40, deadline=None)
def test_nobody_leaves_an_arm_that_grows_beside_another(first, second, growth):
    total = first + second + growth
    first, second, growth = (w / max(total, 1) for w in (first, second, growth))

    def split(weight):
        arms = (Arm(name="canary", version=2, weight=min(weight, 1)), Arm(name="other", version=3, weight=second))
        return arms_of(Routing(stable=1, arms=arms), USERS[:300])

    grown = split(first + growth)
    for user, before in split(first).items():
        assert (before, grown[user]) not in {("canary", "stable"), ("canary", "other"), ("other", "stable")}


def test_the_next_rollout_has_other_canaries_and_so_has_another_model():
    now = {user for user, arm in arms_of(canary(0.2), USERS).items() if arm == "canary"}
    following = {user for user, arm in arms_of(canary(0.2, version=3), USERS).items() if arm == "canary"}
    elsewhere = {user for user in USERS if route(canary(0.2), "n", user).arm == "canary"}
    for others in (following, elsewhere):
        assert 0.1 < len(now & others) / len(now) < 0.3


def test_an_experiment_splits_those_who_name_it_and_keeps_them_over_versions():
    def prices(treatment: int) -> Routing:
        arms = (Arm(name="control", version=1, weight=0.5), Arm(name="treatment", version=treatment, weight=0.5))
        return canary(0.5).model_copy(update={"experiments": (Experiment(name="prices", arms=arms),)})

    found = arms_of(prices(4), USERS, experiment="prices")
    assert set(found.values()) == {"control", "treatment"}
    assert abs(Counter(found.values())["treatment"] / len(USERS) - 0.5) < 0.04
    assert arms_of(prices(5), USERS, experiment="prices") == found
    assert route(prices(4), "m", USERS[0], experiment="prices").experiment == "prices"
    with pytest.raises(NotRouted, match=r"no experiment 'colours'.*running: prices"):
        route(prices(4), "m", "u", experiment="colours")


def test_an_alpha_version_answers_those_who_ask_for_it_and_nobody_else():
    open_ = Routing(stable=1, alpha=(9,))
    assert route(open_, "m", "u", alpha=9) == Route("alpha", 9)
    assert route(open_, "m", "u") == Route("stable", 1)
    with pytest.raises(NotRouted, match=r"version 8 is not open.*open: 9"):
        route(open_, "m", "u", alpha=8)
    with pytest.raises(NotRouted, match="at once"):
        route(open_, "m", "u", alpha=9, experiment="prices")


def test_another_process_splits_alike():
    code = (
        "import json; from airflow_ml.lifecycle.routing import Routing, route;"
        f"r = Routing.from_json({canary(0.3).model_dump_json()!r});"
        "print(json.dumps([route(r, 'm', f'user-{n}').arm for n in range(200)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert json.loads(done.stdout) == list(arms_of(canary(0.3), USERS[:200]).values())
