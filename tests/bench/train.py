"""`make bench-train`: a whole training of Kennel against the script that people copy, in one interleaved run.

The scripts take turns: an epoch of the usual one, an epoch of the strong one, a whole run of Kennel with a cold cache;
as often as there are epochs. A busy neighbour meets all three.
"""

import argparse
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tests.bench import agreement, loader, pictures

SCRIPT = [sys.executable, "-m", "tests.bench.usual"]


class Turns:
    """A script of tests/bench/usual.py, an epoch at a time."""

    def __init__(self, data: Path, weights: Path, *flags: str) -> None:
        started = time.perf_counter()
        command = [*SCRIPT, str(data), str(weights), *flags]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()
        self.seconds = time.perf_counter() - started
        self.rates: list[float] = []

    def epoch(self) -> None:
        """Let it run one."""
        assert self._process.stdin is not None
        self._process.stdin.write("epoch\n")
        self._process.stdin.flush()
        done = self._read()
        self.seconds += done["epoch_s"]
        self.rates.append(done["images_per_s"])

    def end(self) -> None:
        """Let it test what it learnt; of random weights, so the accuracy says nothing."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        done = self._read()
        self.seconds += done["test_s"]
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the script ended with code {self._process.wait()}")
        content: dict[str, Any] = json.loads(line)
        return content


def run_kennel(data: Path, weights: Path, folder: Path, epochs: int, lr: float) -> tuple[float, str]:
    """A whole run with a cold cache; returns its seconds and its log."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "components.train", "--data", str(data), "--model-dir", str(folder / "model")]
    command += ["--cache-dir", str(folder / "cache"), "--weights", str(weights), "--arch", "resnet18"]
    command += ["--epochs", str(epochs), "--lr", str(lr), "--optimizer", "adam", "--schedule", "constant"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return seconds, done.stdout


def features_per_s(log: str) -> float:
    """Images/s of the passes that compute features, their graph and all; of passes of under 10 s nothing is known."""
    found = re.findall(r"^features of \w+: (\d+) done in ([\d.]+) s", log, re.MULTILINE)
    return sum(int(count) for count, _ in found) / sum(float(seconds) for _, seconds in found) if found else math.nan


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=4000, help="how many; below 4000 the figures do not count")
    parser.add_argument("--photos", type=Path, help="folder of photographs to cut pictures from, beside scikit-learn's")
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    agreement.report()
    loader.report()
    with tempfile.TemporaryDirectory(prefix="kennel-bench-") as made:
        folder = Path(made)
        data, weights = pictures.materials(folder, given.pictures, given.photos)
        compare(data, weights, folder / "kennel", given.epochs)


def compare(data: Path, weights: Path, folder: Path, epochs: int, lr: float = 0.001) -> None:
    """Take turns, then print what came out."""
    usual, strong = Turns(data, weights), Turns(data, weights, "--strong")
    runs: list[tuple[float, str]] = []
    for number in range(1, epochs + 1):
        usual.epoch()
        strong.epoch()
        runs.append(run_kennel(data, weights, folder, epochs, lr))
        print(
            f"round {number} of {epochs}: usual {usual.rates[-1]:.1f} images/s, strong {strong.rates[-1]:.1f}, "
            f"kennel {features_per_s(runs[-1][1]):.1f} features/s, {runs[-1][0]:.1f} s in all",
            flush=True,
        )
    usual.end()
    strong.end()
    seconds = statistics.median(seconds for seconds, _ in runs)
    rate, rates = statistics.median(features_per_s(log) for _, log in runs), statistics.median(usual.rates)
    print("\n".join(line for line in runs[-1][1].splitlines() if re.match(r"test_loss|wall time|  \w+ ", line)))
    print(f"frozen ResNet-18, 224 px, {epochs} epochs, {torch.get_num_threads()} cores")
    print(f"  the usual script  {usual.seconds:7.1f} s")
    print(f"  the strong one    {strong.seconds:7.1f} s")
    print(f"  kennel            {seconds:7.1f} s  median of {len(runs)}, cold cache, start to bundle")
    print(f"  kennel takes 1/{usual.seconds / seconds:.2f} of the usual script's time")
    print(f"  kennel takes 1/{strong.seconds / seconds:.2f} of the strong one's")
    print(f"  features {rate:.1f} images/s against {rates:.1f}: {rate / rates:.2f} times")


if __name__ == "__main__":
    main()
