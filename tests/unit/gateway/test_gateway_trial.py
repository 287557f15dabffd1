"""A version on trial gets few calls at a time, and fewer when it fails."""

from itertools import pairwise

from airflow_ml.gateway.trial import AT_ONCE, IN_A_ROW, Trial


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_only_so_many_calls_are_under_way():
    trial = Trial(Clock())
    assert [trial.admit() for _ in range(AT_ONCE + 3)] == [True] * AT_ONCE + [False] * 3
    trial.done(True)
    assert [trial.admit() for _ in range(2)] == [True, False]


def test_a_version_that_fails_again_and_again_is_asked_less_and_less():
    clock = Clock()
    trial = Trial(clock)
    for _ in range(IN_A_ROW):
        assert trial.admit()
        trial.done(False)
    asked = []
    for tick in range(1, 10_000):
        clock.now = tick / 10
        if trial.admit():
            trial.done(False)
            asked.append(clock.now)
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert asked[0] == 1.0
    assert [round(gap) for gap in gaps[:6]] == [1, 2, 4, 8, 16, 30]
    assert max(gaps) < 30.5


def test_one_good_answer_ends_it():
    clock = Clock()
    trial = Trial(clock)
    for _ in range(IN_A_ROW + 1):
        trial.admit()
        trial.done(False)
    clock.now = 1.0
    assert trial.admit()
    trial.done(True)
    assert all(trial.admit() for _ in range(AT_ONCE))


def test_a_call_that_says_nothing_of_the_version_only_ends():
    trial = Trial(Clock())
    for number in range(2 * IN_A_ROW):
        assert trial.admit()
        trial.done(False if number % 2 else None)
    assert not trial.admit()


def test_failures_between_good_answers_do_not_count():
    trial = Trial(Clock())
    for number in range(100):
        assert trial.admit()
        trial.done(number % IN_A_ROW == 0)
