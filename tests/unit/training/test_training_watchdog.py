"""Which rank hangs, told from the pulses of all."""

import pytest

from airflow_ml.training.watchdog import SILENCE_S, START_S, Hang, Watchdog


def pulse(rank, moves, waits=False, where="fit.py:7 (fit)", step=3):
    return {"rank": rank, "moves": moves, "waits": waits, "where": where, "epoch": 1, "step": step}


@pytest.fixture
def watchdog():
    """Of two ranks that were last seen to get on at second 10."""
    found = Watchdog(2, step_timeout_s=60, now=0)
    for rank in (0, 1):
        found.hear(pulse(rank, moves=5), now=10)
    return found


def heard(watchdog, now, *pulses):
    for each in pulses:
        watchdog.hear(each, now)
    return watchdog.hung([0, 1], now)


def test_who_gets_on_does_not_hang(watchdog):
    assert heard(watchdog, 69, pulse(0, 5), pulse(1, 5)) is None
    assert heard(watchdog, 80, pulse(0, 6), pulse(1, 6)) is None
    assert heard(watchdog, 139, pulse(0, 6), pulse(1, 6)) is None


def test_the_one_that_waits_for_nobody_hangs(watchdog):
    assert heard(watchdog, 71, pulse(0, 5, waits=True), pulse(1, 5, where="fit.py:9 (load)")) == Hang(
        1, "no progress for 61 s at fit.py:9 (load)", epoch=1, step=3
    )


def test_a_process_that_says_nothing_does_not_run(watchdog):
    assert heard(watchdog, 10 + SILENCE_S, pulse(0, 5)) is None
    found = heard(watchdog, 11 + SILENCE_S, pulse(0, 5))
    assert (found.rank, found.what) == (1, "its process has not run for 31 s")
    # One that has ended is not missed.
    assert watchdog.hung([0], 11 + SILENCE_S) is None


def test_all_that_wait_for_each_other_hang(watchdog):
    found = heard(watchdog, 71, pulse(0, 5, waits=True), pulse(1, 5, waits=True, where="fit.py:9 (load)"))
    assert (
        found.what == "all ranks wait for each other since 61 s (rank 0 at fit.py:7 (fit); rank 1 at fit.py:9 (load))"
    )
    # One of them has only just begun to wait.
    assert heard(watchdog, 72, pulse(0, 5, waits=True), pulse(1, 6, waits=True)) is None


def test_what_a_rank_imports_is_no_step():
    fresh = Watchdog(2, step_timeout_s=60, now=0)
    for second in range(0, int(START_S), 100):
        assert heard(fresh, second, pulse(1, moves=0)) is None
    assert heard(fresh, START_S + 1, pulse(1, moves=0)).rank == 0
