"""What holds for every test: which may be left out, and the figures that a run prints."""

import os
from collections.abc import Iterator
from typing import Final

import pytest

from tests.support import chromium, engine
from tests.support.chromium import Browser, Tab
from tests.support.figures import RecordFigure
from tests.support.soak import SOAK, Scale

# Before torch is loaded, as components/environment.py does for a stage: spinning threads starve whatever runs beside.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

DOCKER_TIMEOUT_S: Final = 1800
"""A test may have to build all images first: on a fresh machine gigabytes are downloaded."""

REQUIRE: Final = os.environ.get("REQUIRE_DOCKER", "") not in {"", "0"}
SLOW: Final = os.environ.get("SLOW", "") not in {"", "0"}
LEFT_OUT: Final = pytest.StashKey[list[str]]()
FIGURES: Final = pytest.StashKey[list[str]]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow tests, and those for which Docker or a GPU is missing; REQUIRE_DOCKER=1: only those for a GPU.

    Those marked `soak` take an hour: `make soak` alone runs them.
    """
    with_docker = [item for item in items if "docker" in item.keywords]
    for item in with_docker:
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(DOCKER_TIMEOUT_S))
    reason = engine.why_not() if with_docker else ""
    if reason and REQUIRE:
        raise pytest.UsageError(f"REQUIRE_DOCKER=1, but {reason}: start Docker, then try again")
    if reason:
        _leave_out(config, items, with_docker, f"tests that need a Docker engine, since {reason}")
    on_a_gpu = [item for item in items if "gpu" in item.keywords]
    if on_a_gpu and not _has_gpu():
        _leave_out(config, items, on_a_gpu, "tests that need a GPU, since torch finds none")
    if not SOAK:
        _leave_out(config, items, [item for item in items if "soak" in item.keywords], "of an hour (make soak)")
    if not (REQUIRE or SLOW or SOAK or config.getoption("markexpr") or config.getoption("keyword")):
        slow = [item for item in items if "slow" in item.keywords]
        _leave_out(config, items, slow, "slow tests (SLOW=1 runs them)")


def _has_gpu() -> bool:
    import torch  # seconds: only where there is something to leave out

    return torch.cuda.is_available()


def _leave_out(config: pytest.Config, items: list[pytest.Item], left_out: list[pytest.Item], what: str) -> None:
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
        config.stash.setdefault(LEFT_OUT, []).append(f"left out: {len(left_out)} {what}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With REQUIRE_DOCKER=1, a skipped test is a failed run."""
    if REQUIRE and exitstatus == pytest.ExitCode.OK and _num_skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures measured, what was left out, and with REQUIRE_DOCKER=1 how many were skipped."""
    figures = config.stash.get(FIGURES, [])
    if figures:
        terminalreporter.section("figures")
    for line in figures:
        terminalreporter.write_line(line)
    for line in config.stash.get(LEFT_OUT, []):
        terminalreporter.write_line(line, yellow=True)
    if REQUIRE:
        count = _num_skipped(config)
        terminalreporter.write_line(f"tests skipped: {count}, must be 0", red=count > 0, green=count == 0)


def _num_skipped(config: pytest.Config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    assert isinstance(reporter, pytest.TerminalReporter)
    return len(reporter.stats.get("skipped", []))


@pytest.fixture(scope="session")
def record_figure(request: pytest.FixtureRequest) -> RecordFigure:
    """Takes a line to print when the run ends: sizes and times are results as well."""
    return request.config.stash.setdefault(FIGURES, []).append


@pytest.fixture(scope="session")
def scale() -> Scale:
    """How much is done where the count is the point."""
    return Scale(SOAK)


@pytest.fixture(scope="session")
def images(record_figure: RecordFigure) -> engine.Made:
    """All images of this source, built once a run as people build them: `make build`."""
    built = engine.make("build", timeout_s=engine.BUILD_TIMEOUT_S)
    assert built.code == 0, built.output
    record_figure(f"make build: {built.seconds:.0f} s")
    for line in built.output.splitlines():
        if line.startswith("built kennel-"):
            record_figure(f"  {line}")
    return built


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    executable = chromium.find()
    if executable is None:
        pytest.skip("there is no Chromium: install it (Debian: apt-get install chromium)")
    with chromium.running(executable, tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    """A new page of a real browser."""
    opened = browser.new_tab()
    yield opened
    opened.close()
