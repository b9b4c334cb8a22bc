"""A search on a terminal: a live table while it lasts, and a terminal as it was when it ends, however it ends."""

import os
import pty
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.engine import ROOT
from tests.support.folders import write_images
from tests.support.searches import LR, SMALL, rows

HIDDEN, SHOWN = b"\x1b[?25l", b"\x1b[?25h"
"""What hides and shows the cursor."""
ERASE: Final = b"\x1b[2K"
"""What empties a line of the terminal."""
ENDLESS: Final = ("--trials", "100000")


class Terminal:
    """A pseudo-terminal and the search that runs in its foreground."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "components.tune", *flags]
        environ = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
        self._process, self._terminal = pty.fork()
        if self._process == 0:  # from here to exec, nothing that a thread of the parent could hold
            os.chdir(ROOT)
            os.execve(sys.executable, command, environ)
        self.written = b""

    def read_until(self, is_enough: Callable[[bytes], bool]) -> None:
        """Read what is written, until it is enough or there is no more."""
        while not is_enough(self.written):
            try:
                more = os.read(self._terminal, 65536)
            except OSError:  # nobody has it open any more
                return
            if not more:
                return
            self.written += more

    def press(self, key: bytes) -> None:
        """A key, as the terminal's driver sees it: Ctrl-C is a signal to all in the foreground."""
        os.write(self._terminal, key)

    def end(self) -> int:
        """Read the rest; the exit code."""
        self.read_until(lambda _: False)
        return os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])

    def close(self) -> None:
        """Let nothing live on."""
        os.close(self._terminal)
        try:
            os.kill(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("terminal")
    data = write_images(folder / "data", per_class=4)
    return ("--data", str(data), *SMALL, "--space", LR, "--cache-dir", str(folder / "cache"))


@pytest.fixture
def start(given: tuple[str, ...], tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def begin(*flags: str) -> Terminal:
        places = ("--output-dir", str(tmp_path / "out"), "--checkpoint-dir", str(tmp_path / "checkpoints"))
        started.append(Terminal(*given, *places, "--parallel-trials", "2", *flags))
        return started[-1]

    yield begin
    for terminal in started:
        terminal.close()


def is_under_way(written: bytes) -> bool:
    """Whether the table shows the first trials that are over."""
    return b"complete " in written and written.rfind(HIDDEN) > written.rfind(SHOWN)


def has_cursor(written: bytes) -> bool:
    return written.rfind(SHOWN) > written.rfind(HIDDEN)


def test_a_table_is_alive_while_trials_run_and_gone_when_they_are_over(
    start: Callable[..., Terminal], tmp_path: Path
) -> None:
    terminal = start("--trials", "3")
    terminal.read_until(is_under_way)
    assert terminal.end() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.written.decode())
    for number in range(3):
        assert f"\ntrial={number} state=complete valid_loss=" in text.replace("\r", "\n")
    assert "3 of 3 trials" in text
    assert re.search(r"│ +\d │ epoch [012]/2 +│", text), "no trial was shown under way"
    assert has_cursor(terminal.written)
    after = terminal.written[terminal.written.rfind(SHOWN) :].decode()
    assert "│" not in after, "the table is left behind"
    assert "best hyperparameters: " in after
    assert len(rows(tmp_path / "out")) == 3


def test_lines_of_the_log_stand_above_the_table(start: Callable[..., Terminal]) -> None:
    terminal = start(*ENDLESS, "--search-time-limit", "1")
    assert terminal.end() == 0
    (line,) = [line for line in terminal.written.split(b"\r\n") if b"search time limit: 1 s are over" in line]
    since_erased = line.rpartition(ERASE)[2]
    assert since_erased.decode() == "search time limit: 1 s are over, no more trials are begun"
    assert has_cursor(terminal.written)


def test_ctrl_c_leaves_a_cursor_and_says_how_to_go_on(start: Callable[..., Terminal]) -> None:
    terminal = start(*ENDLESS)
    terminal.read_until(is_under_way)
    terminal.press(b"\x03")
    assert terminal.end() == 128 + signal.SIGINT
    assert has_cursor(terminal.written)
    after = terminal.written[terminal.written.rfind(SHOWN) :].decode()
    assert "stopped by Ctrl-C: the same command goes on" in after
    assert "Traceback" not in terminal.written.decode()


def test_an_error_leaves_a_cursor_and_its_sentence(start: Callable[..., Terminal], tmp_path: Path) -> None:
    terminal = start(*ENDLESS)
    terminal.read_until(is_under_way)
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)  # with the study, as a disk might go
    assert terminal.end() == 1
    assert has_cursor(terminal.written)
    after = terminal.written[terminal.written.rfind(SHOWN) :].decode()
    assert "error: " in after
