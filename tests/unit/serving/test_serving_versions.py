"""Which versions a server wants, and in which order it loads and unloads."""

from airflow_ml.serving.server.config import VersionPolicy, models_of, parse
from airflow_ml.serving.server.versions import State, to_forget, to_load, to_unload

NAMES = ["1", "2", "10", ".staging-11", "tmp", "03", "-4", "²"]


def test_policies_choose_among_numbers_only():
    assert VersionPolicy().aspired(NAMES) == {10: "10"}
    assert VersionPolicy("latest", latest=2).aspired(NAMES) == {3: "03", 10: "10"}
    assert set(VersionPolicy("all").aspired(NAMES)) == {1, 2, 3, 10}
    assert VersionPolicy("specific", specific=frozenset({2, 7})).aspired(NAMES) == {2: "2"}
    assert VersionPolicy().aspired([]) == {}


def test_the_old_version_goes_only_when_the_new_one_is_there():
    states = {1: State.AVAILABLE, 2: State.LOADING}
    assert to_load([2], {1: State.AVAILABLE}) == [2]
    assert to_unload([2], states) == []
    assert to_unload([2], states | {2: State.AVAILABLE}) == [1]
    assert to_unload([2], states | {2: State.END}) == []  # it could not be loaded: the old one stays
    assert to_unload([], states) == [1]


def test_a_version_that_ended_may_begin_anew_when_it_is_wanted_again():
    states = {1: State.END, 2: State.AVAILABLE}
    assert to_forget([2], states, failed=[]) == [1]
    assert to_forget([2], states, failed=[1]) == [1]
    assert to_load([1, 2], {2: State.AVAILABLE}) == [1]
    assert to_forget([1], states, failed=[]) == [1]  # it was unloaded a moment ago, and its successor is gone
    assert to_forget([1, 2], states, failed=[1]) == []  # it failed; a failed version is not loaded again and again


def test_config_text():
    models = models_of(
        parse(
            'model_config_list { config { name: "a" base_path: "/a" model_platform: "tensorflow" '
            'model_version_policy { specific { versions: 1 versions: 2 } } version_labels { key: "s" value: 1 } } }'
        )
    )
    assert models["a"].policy == VersionPolicy("specific", specific=frozenset({1, 2}))
    assert models["a"].labels == {"s": 1}
