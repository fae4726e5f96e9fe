"""Callers who come back together are waited for, and nobody else is."""

import time

from statecell_server.batching.cohort import MOST, PAUSE, Cohort


def test_it_waits_while_those_who_were_answered_come_back_and_no_longer() -> None:
    cohort = Cohort()
    cohort.answered(40, 20, seconds=1.0)
    assert cohort.pause(20) == PAUSE
    assert cohort.pause(50) == PAUSE
    assert cohort.pause(60) is None
    assert cohort.pause(59) is None, "it was decided"


def test_nobody_who_stays_away_is_waited_for_twice() -> None:
    cohort = Cohort()
    cohort.answered(40, 20, seconds=1.0)
    assert cohort.pause(20) == PAUSE
    assert cohort.pause(20) is None


def test_it_goes_on_expecting_them_while_nobody_is_back_yet() -> None:
    cohort = Cohort()
    cohort.answered(40, 0, seconds=1.0)
    assert cohort.pause(0) is None
    assert cohort.pause(2) == PAUSE


def test_one_caller_alone_never_waits() -> None:
    cohort = Cohort()
    cohort.answered(1, 0, seconds=1.0)
    assert cohort.pause(1) is None


def test_in_front_of_a_short_run_it_looks_again_and_does_not_sleep() -> None:
    cohort = Cohort()
    cohort.answered(3, 0, seconds=1e-4)
    assert cohort.pause(1) == 0.0
    assert cohort.pause(2) == 0.0
    assert cohort.pause(2) is None


def test_it_never_waits_for_more_than_its_part_of_the_run() -> None:
    cohort = Cohort()
    cohort.answered(40, 0, seconds=0.004)
    assert cohort.pause(1)
    time.sleep(MOST * 0.004)
    assert cohort.pause(2) is None
