"""A line of progress now and then."""

import logging

import pytest

from gnesf_core import progress
from gnesf_core.progress import Progress


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "time", Clock())
    return progress.time


def test_a_quick_work_says_nothing(clock, caplog):
    work = Progress("frames", 100)
    for done in range(1, 101):
        clock.now += 0.09
        work.tell(done)
    assert caplog.messages == []
    assert work.seconds == pytest.approx(9)


def test_a_long_one_says_how_far_it_is_and_how_long_it_will_take(clock, caplog):
    work = Progress("frames", 100)
    for done in range(1, 61):
        clock.now += 0.5
        work.tell(done)
    assert caplog.messages == [
        "21 of 100 frames, 2 frames/s, 40 s left",
        "42 of 100 frames, 2 frames/s, 29 s left",
    ]


def test_what_was_done_earlier_makes_nobody_faster(clock, caplog):
    work = Progress("maps", 100, before=90)
    clock.now += 20
    work.tell(94)
    assert caplog.messages == ["94 of 100 maps, 0.2 maps/s, 30 s left"]
