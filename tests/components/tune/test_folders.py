"""What searches leave beside each other in one checkpoint folder."""

from pathlib import Path

from tests.support.folders import write_images
from tests.support.searches import LR, SMALL, search


def test_trials_of_two_searches_in_one_folder_do_not_mix(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data")
    flags = ("--data", str(data), *SMALL, "--space", LR, "--trials", "2", "--parallel-trials", "1")
    first = search(tmp_path, tmp_path / "cache", *flags)
    other = search(tmp_path, tmp_path / "cache", *flags, "--seed", "1")
    again = search(tmp_path, tmp_path / "cache", *flags)  # whose winner is scored with its own weights, not the other's
    assert first.values == again.values
    assert first.values != other.values
    assert first.best == again.best
    assert again.lines("study: 2 trials are over already, 0 of 2 are to do")
