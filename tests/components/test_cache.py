import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from components.cache import Cache, default_folder, key


def fill(size_bytes: int) -> "Fill":
    return Fill(size_bytes)


class Fill:
    """Builds an entry of a given size and counts how often it had to."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "content").write_bytes(b"x" * self.size_bytes)


def test_an_entry_is_built_once(tmp_path: Path) -> None:
    build = fill(10)
    first, second = (Cache(tmp_path).entry("pixels-1", build) for _ in range(2))
    assert first == second
    assert (first / "content").stat().st_size == 10
    assert build.calls == 1


def test_an_entry_that_could_not_be_built_is_none(tmp_path: Path) -> None:
    def breaks(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("broken")

    cache = Cache(tmp_path)
    with pytest.raises(RuntimeError, match="broken"):
        cache.entry("pixels-1", breaks)
    assert not cache.has("pixels-1")
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_what_was_used_least_recently_goes_first_and_what_was_asked_for_stays(tmp_path: Path) -> None:
    limit_gb = 25e-9
    for age, name in ((30, "a"), (20, "b")):
        path = Cache(tmp_path, limit_gb).entry(name, fill(10))
        os.utime(path, (time.time() - age, time.time() - age))
    Cache(tmp_path, limit_gb).entry("a", fill(10))  # used again: b is the older one now
    cache = Cache(tmp_path, limit_gb)
    cache.entry("c", fill(10))
    assert [name for name in "abc" if cache.has(name)] == ["a", "c"]
    Cache(tmp_path, limit_gb).entry("large", fill(1000))
    assert [name for name in ("a", "c", "large") if cache.has(name)] == ["large"]


def test_what_this_run_was_handed_stays_and_the_log_says_how_much_is_too_much(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache(tmp_path, limit_gb=25e-9)
    for name in "abc":
        cache.entry(name, fill(10**9 // 10))
    assert all(cache.has(name) for name in "abc")
    assert "this run needs 0.3 GB more than the limit" in caplog.text


def _build_for_ever(folder: Path, queue: "multiprocessing.Queue[str]") -> None:
    def build(aside: Path) -> None:
        (aside / "half").touch()
        queue.put("building")
        signal.pause()

    Cache(folder).entry("a", build)


def test_what_a_killed_process_left_goes_at_the_next_start_and_what_a_living_one_builds_stays(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_build_for_ever, args=(tmp_path, queue))
    process.start()
    assert queue.get(timeout=60) == "building"
    Cache(tmp_path).entry("b", fill(1))
    assert list(tmp_path.glob(".aside-a/half"))
    process.kill()
    process.join(60)
    Cache(tmp_path).entry("b", fill(1))  # also when nothing has to be built
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (Cache(tmp_path).entry("a", fill(1)) / "content").exists()


def _build_slowly(folder: Path, started: Path, queue: "multiprocessing.Queue[str]") -> None:
    def build(aside: Path) -> None:
        queue.put("built")
        (aside / "content").write_text(str(os.getpid()))

    started.touch()
    queue.put((Cache(folder).entry("a", build) / "content").read_text())


def test_processes_that_want_the_same_entry_build_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=_build_slowly, args=(tmp_path / "cache", tmp_path / str(n), queue)) for n in (1, 2)
    ]
    for process in processes:
        process.start()
    said = [queue.get(timeout=60) for _ in range(3)]
    for process in processes:
        process.join(60)
    assert said.count("built") == 1
    assert len({word for word in said if word != "built"}) == 1


def test_a_key_says_its_kind_and_depends_on_every_fact() -> None:
    facts = {"files": ["a", "b"], "input": {"height": 32}}
    assert key("pixels", facts).startswith("pixels-")
    assert key("pixels", facts) == key("pixels", dict(reversed(facts.items())))
    assert key("pixels", facts) != key("pixels", facts | {"files": ["b", "a"]})


def test_the_folder_is_the_users_cache_and_temporary_where_there_is_no_home(tmp_path: Path) -> None:
    assert default_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "kennel"
    assert default_folder({"HOME": str(tmp_path)}) == tmp_path / ".cache" / "kennel"
    (tmp_path / "file").touch()
    assert default_folder({"HOME": str(tmp_path / "file")}).name == "kennel-cache"
