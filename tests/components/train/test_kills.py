"""Real processes, killed by SIGKILL at random instants and in every phase, and started again by the same command."""

import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving import bundle, golden
from serving.engines import open_engine
from serving.errors import BundleError
from serving.files import ASIDE_PREFIX
from tests.support.figures import RecordFigure
from tests.support.folders import COLORS, write_images
from tests.support.forked import load, main, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 20
KILLS_OF_STARTS = 3
"""So many of them come before there is anything to go on with."""
EPOCHS, STEPS = 30, 4
POLL_S = 0.002
LEARNS = [
    "--arch", "shufflenet_v2_x0_5", "--weights", "none", "--freeze", "none", "--image-size", "32", "--batch-size", "6",
    "--head", "mlp", "--dropout", "0.2", "--ema", "0.9", "--lr", "0.003", "--epochs", str(EPOCHS),
]  # fmt: skip
MEASURED = ("epoch", "train_loss", "valid_loss", "valid_accuracy", "best_valid_loss", "lr")
"""What an epoch says that is no time."""
GOES_ON = re.compile(r"^checkpoint .*: after (\d+) of \d+ epochs and (\d+) batches, going on$", re.MULTILINE)


@dataclass(frozen=True)
class Place:
    """The folders of one run."""

    root: Path

    def command(self, data: Path, *flags: str) -> list[str]:
        folders = ("--model-dir", str(self.model), "--cache-dir", str(self.root / "cache"))
        return ["--data", str(data), *folders, *flags]

    @property
    def model(self) -> Path:
        return self.root / "model"

    def weights(self) -> str:
        return hashlib.sha256((self.model / bundle.WEIGHTS).read_bytes()).hexdigest()

    def metrics(self) -> list[dict[str, float]]:
        lines = (self.root / "model.output" / "metrics.jsonl").read_text().splitlines()
        return [{name: json.loads(line)[name] for name in MEASURED} for line in lines]

    def has_done(self, steps: float) -> bool:
        """Whether the newest checkpoint holds so many steps of the whole run."""
        names = sorted((self.root / "model.checkpoints").glob("checkpoint-*.pt"))
        epoch, batch = names[-1].stem.split("-")[-2:] if names else ("1", "0")
        return (int(epoch) - 1) * STEPS + int(batch) >= steps

    def temporary(self) -> set[Path]:
        """Files and folders under construction, and what libraries left in the folder of temporary files."""
        return {*self.root.rglob(f"{ASIDE_PREFIX}*"), *self.root.glob("tmp/*")}


class Attempt:
    """One process of a run."""

    def __init__(self, place: Place, command: Sequence[str], number: int) -> None:
        (place.root / "tmp").mkdir(parents=True, exist_ok=True)
        self._log = place.root / f"log-{number}"
        self._log.touch()
        environ = os.environ | {"TMPDIR": str(place.root / "tmp")}
        self._process = start(main, "components.train", command, environ=environ, out=self._log)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def until(self, has_happened: Callable[[], bool]) -> None:
        while not has_happened():
            self.go_on(POLL_S)

    def go_on(self, seconds: float) -> None:
        """Let it run, and expect it not to end meanwhile."""
        self._process.join(seconds)
        assert self._process.poll() is None, f"ended before it was killed: {self.log}"

    def until_it_goes_on(self, *, is_first: bool) -> None:
        self.until(lambda: self.is_learning if is_first else self.start is not None)

    def kill(self) -> None:
        self._process.kill()
        assert self._process.wait() == -signal.SIGKILL

    def end(self) -> None:
        assert self._process.wait() == 0, self.log

    @property
    def is_learning(self) -> bool:
        return "learning from" in self.log

    @property
    def start(self) -> tuple[int, int] | None:
        """Epochs and batches that were done when it went on; None when it began anew, or did not come so far."""
        found = GOES_ON.search(self.log)
        return None if found is None else (int(found[1]), int(found[2]))

    @property
    def epochs_executed(self) -> float:
        """At most: those that it finished, less what others did of the first, and the one in which it was killed."""
        finished = self.log.count("\nepoch=")
        was_killed_in_one = self.is_learning and "test_accuracy=" not in self.log
        return finished + was_killed_in_one - (0 if self.start is None else self.start[1] / STEPS)


def run(place: Place, command: Sequence[str]) -> tuple[float, float]:
    """A run that nobody disturbs; returns how long it took to start, and an epoch, in seconds."""
    load()
    started = time.monotonic()
    attempt = Attempt(place, command, 0)
    attempt.until(lambda: attempt.is_learning)
    start_s = time.monotonic() - started
    attempt.end()
    lines = (place.root / "model.output" / "metrics.jsonl").read_text().splitlines()
    return start_s, float(np.median([json.loads(line)["seconds"] for line in lines]))


def test_a_run_killed_twenty_times_ends_where_the_undisturbed_one_ends(
    tmp_path: Path, record_figure: RecordFigure
) -> None:
    data = write_images(tmp_path / "data")
    undisturbed, killed = Place(tmp_path / "undisturbed"), Place(tmp_path / "killed")
    start_s, epoch_s = run(undisturbed, undisturbed.command(data, *LEARNS))

    generator = np.random.default_rng(20)
    command = killed.command(data, *LEARNS, "--checkpoint-interval-s", "0")
    # The last one early enough to land before the end, however the moments after it are drawn.
    at_steps = iter(sorted(generator.uniform(0, 0.85 * EPOCHS * STEPS, KILLS - KILLS_OF_STARTS)))
    of_starts = set(generator.choice(np.arange(1, KILLS), KILLS_OF_STARTS, replace=False))
    attempts: list[Attempt] = []
    left: set[Path] = set()
    num_left = 0
    for number in range(KILLS):
        attempt = Attempt(killed, command, number)
        attempts.append(attempt)
        if number in of_starts:
            attempt.go_on(generator.uniform(0, start_s))
        else:
            attempt.until_it_goes_on(is_first=number == 0)
            assert [path for path in left if path.exists()] == []
            left.clear()
            attempt.until(partial(killed.has_done, next(at_steps)))
            attempt.go_on(generator.uniform(0, epoch_s))
        attempt.kill()
        num_left += len(killed.temporary() - left)
        left |= killed.temporary()
    attempts.append(Attempt(killed, command, KILLS))
    attempts[-1].end()

    starts = [attempt.start for attempt in attempts if attempt.start is not None]
    above_zero = [start for start in starts if start[0] > 0]
    in_the_middle = [start for start in above_zero if start[1] > 0]
    executed = sum(attempt.epochs_executed for attempt in attempts)
    record_figure(
        f"{KILLS} SIGKILLs: {len(above_zero)} attempts go on above epoch 0, {len(in_the_middle)} of them in the middle "
        f"of an epoch; at most {executed:g} epochs executed for {EPOCHS}; {num_left} temporary files left and swept"
    )
    assert killed.weights() == undisturbed.weights()
    assert killed.metrics() == undisturbed.metrics()
    assert [result["epoch"] for result in killed.metrics()] == list(range(1, EPOCHS + 1))
    assert EPOCHS <= executed <= EPOCHS + KILLS
    assert len(above_zero) >= 15
    assert len(in_the_middle) >= 1
    assert killed.temporary() == set()


def write_slow_images(folder: Path) -> Path:
    """Few pictures to learn from, whose decoding takes long enough to be met at it."""
    write_images(folder, splits=("valid", "test"))
    for label, color in COLORS.items():
        path = folder / "train" / label / "0.jpg"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (3000, 2000), color).save(path)
        for number in range(1, 8):  # what comes after the end of a JPEG is not of the picture
            (path.parent / f"{number}.jpg").write_bytes(path.read_bytes() + bytes([number]))
    return folder


def test_a_kill_in_any_phase_leaves_no_half_bundle_and_nothing_that_the_next_start_does_not_sweep(
    tmp_path: Path,
) -> None:
    data = write_slow_images(tmp_path / "data")
    killed = Place(tmp_path / "killed")
    cache, torn = killed.root / "cache", killed.root / "model.output" / f"{ASIDE_PREFIX}torn.csv"
    command = killed.command(data, "--weights", "none", "--image-size", "32", "--epochs", "1")
    torn.parent.mkdir(parents=True)
    torn.touch()
    phases: list[Callable[[], bool]] = [
        lambda: any(cache.glob(f"{ASIDE_PREFIX}pixels-*/pixels.npy")),
        lambda: any(cache.glob(f"{ASIDE_PREFIX}features-*/*")),
        lambda: any(killed.model.glob(f"{ASIDE_PREFIX}*")),
        (killed.model / bundle.ONNX_MODEL).exists,
    ]
    for number, is_there in enumerate(phases):
        left = killed.temporary()
        attempt = Attempt(killed, command, number)
        attempt.until(is_there)
        attempt.kill()
        assert left.isdisjoint(killed.temporary())
        if number < 2:
            assert killed.temporary() != set()
        with pytest.raises(BundleError, match=r"has no bundle\.json"):
            bundle.read(killed.model)
    Attempt(killed, command, len(phases)).end()
    golden.check(bundle.read(killed.model), open_engine("onnx", bundle.read(killed.model)))
    assert killed.temporary() == set()
