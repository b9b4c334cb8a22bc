"""Searches in processes of their own, and what their journals tell."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optuna.storages.journal._storage import JournalOperation
from optuna.trial import TrialState

from components.tune.storage import JOURNAL
from tests.support.forked import main, start

POLL_S: Final = 0.002
SMALL: Final = ("--arch", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32")
SPACE: Final = json.dumps(
    {
        "lr": {"type": "continuous", "min": 0.001, "max": 0.3, "scale": "log"},
        "batch-size": {"type": "categorical", "values": [6, 8, 12]},
    }
)


@dataclass(frozen=True)
class Place:
    """The folders of one search."""

    root: Path
    data: Path
    name: str = "out"

    def command(self, *flags: str) -> list[str]:
        """Its flags."""
        folders = ("--data", str(self.data), "--output-dir", str(self.output), "--cache-dir", str(self.root / "cache"))
        return [*folders, *SMALL, "--space", SPACE, *flags]

    @property
    def output(self) -> Path:
        """Where its results are."""
        return self.root / self.name

    @property
    def checkpoints(self) -> Path:
        """Where its study is."""
        return self.root / f"{self.name}.checkpoints"

    def best(self) -> dict[str, str]:
        """What it wrote in the end."""
        found: dict[str, str] = json.loads((self.output / "best_hyperparameters.json").read_text())
        return found

    def journal(self) -> "Journal":
        """What happened so far."""
        path = self.checkpoints / JOURNAL
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return Journal([json.loads(line) for line in lines if line.endswith(b"\n")])


class Journal:
    """Trials as a study's file tells of them, from its first line to its last."""

    def __init__(self, entries: Sequence[dict[str, object]]) -> None:
        self._entries = entries

    @property
    def num_begun(self) -> int:
        """Trials that were handed out, counted once."""
        return sum(entry["op_code"] == JournalOperation.CREATE_TRIAL for entry in self._entries)

    @property
    def ends(self) -> Counter[object]:
        """How often each trial ended."""
        return Counter(
            entry["trial_id"]
            for entry in self._entries
            if entry["op_code"] == JournalOperation.SET_TRIAL_STATE_VALUES and TrialState(entry["state"]).is_finished()  # type: ignore[arg-type]  # a number
        )


class Attempt:
    """One process of a search."""

    def __init__(self, root: Path, command: Sequence[str], number: int = 0) -> None:
        (root / "tmp").mkdir(parents=True, exist_ok=True)
        self._log = root / f"log-{number}"
        self._log.touch()
        environ = {**os.environ, "TMPDIR": str(root / "tmp")}
        self.process = start(main, "components.tune", list(command), environ=environ, out=self._log)

    @property
    def log(self) -> str:
        """What it said."""
        return self._log.read_text()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def until(self, has_happened: Callable[[], bool]) -> None:
        """Let it run so long, or to its end."""
        while self.is_alive and not has_happened():
            self.process.join(POLL_S)

    def go_on(self, seconds: float) -> None:
        """Let it run, or to its end."""
        self.process.join(max(0.0, seconds))

    def kill(self) -> None:
        """By SIGKILL, unless it has ended well."""
        self.process.kill()
        assert self.process.wait() in {0, -signal.SIGKILL}, self.log

    def end(self, code: int = 0) -> None:
        """Wait for its end."""
        assert self.process.wait() == code, self.log


def timeline(place: Place, attempt: Attempt) -> list[float]:
    """When an undisturbed search had its first, second, ... trial ended, and when it ended itself; seconds."""
    began, times = time.monotonic(), list[float]()
    while attempt.is_alive:
        attempt.go_on(POLL_S)
        times += [time.monotonic() - began] * (len(place.journal().ends) - len(times))
    attempt.end()
    return [*times, time.monotonic() - began]
