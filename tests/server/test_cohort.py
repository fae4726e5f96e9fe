"""Callers who come back together are waited for, and nobody else is."""

import time

from statecell_server.cohort import MOST, PAUSE, Cohort


def test_it_waits_while_those_who_were_answered_come_back_and_no_longer() -> None:
    cohort = Cohort()
    cohort.answered(40, 20, seconds=1.0)
    assert cohort.pause(20) == PAUSE
    assert cohort.pause(50) == PAUSE
    assert cohort.pause(60) == 0.0
    assert cohort.pause(59) == 0.0, "it was decided"


def test_nobody_who_stays_away_is_waited_for_twice() -> None:
    cohort = Cohort()
    cohort.answered(40, 20, seconds=1.0)
    assert cohort.pause(20) == PAUSE
    assert cohort.pause(20) == 0.0


def test_one_caller_alone_never_waits() -> None:
    cohort = Cohort()
    cohort.answered(1, 0, seconds=1.0)
    assert cohort.pause(1) == 0.0


def test_it_never_waits_for_more_than_its_part_of_the_run() -> None:
    cohort = Cohort()
    cohort.answered(40, 0, seconds=0.004)
    assert cohort.pause(1) > 0
    time.sleep(MOST * 0.004)
    assert cohort.pause(2) == 0.0
