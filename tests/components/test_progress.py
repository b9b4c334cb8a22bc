"""How far long work is, in a log; what is drawn on a terminal is rich's."""

import pytest

from components import progress as module
from components.progress import LOG_INTERVAL_S, Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level("INFO")
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_line_now_and_then_says_how_far_it_is_and_one_how_long_it_took(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    progress = Progress()
    for done in range(5):
        progress("decode train", done, 4)
        clock.now += LOG_INTERVAL_S / 2
    assert [record.getMessage() for record in caplog.records] == [
        "decode train: 2 of 4, 10 s left",
        "decode train: 4 done in 20.0 s",
    ]


def test_what_is_done_soon_is_not_worth_a_line(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress()
    for what in ("decode train", "decode valid"):
        for done in range(100):
            progress(what, done + 1, 100)
            clock.now += 0.01
    assert caplog.records == []


def test_a_quiet_one_leaves_it_to_another_process(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress(is_quiet=True)
    for done in range(5):
        progress("decode train", done, 4)
        clock.now += LOG_INTERVAL_S
    assert caplog.records == []
