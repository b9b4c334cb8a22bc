"""The stopwatch of a run's parts."""

import itertools

import pytest

from components.train.workplace import Phases


def test_parts_inside_one_another_add_up_to_the_whole() -> None:
    seconds = itertools.count()  # one passes between two looks
    phases = Phases(lambda: float(next(seconds)))
    with phases.measured("trials"):  # from 0
        with phases.measured("decode"):  # 1 to 2
            pass
        with phases.measured("features"), phases.measured("graph"):  # 3 to 6, 4 to 5
            pass
    with phases.measured("trials"):  # 7 ends the first; 8 to 9
        pass
    assert phases.seconds == {"decode": 1, "graph": 1, "features": 2, "trials": 3 + 1}
    assert sum(phases.seconds.values()) == 7 + 1


def test_a_part_that_fails_is_counted_too() -> None:
    phases = Phases()
    with pytest.raises(KeyError), phases.measured("trials"), phases.measured("decode"):
        raise KeyError
    assert phases.seconds.keys() == {"trials", "decode"}
