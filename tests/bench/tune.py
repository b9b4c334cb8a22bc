"""`make bench-tune`: a whole hyperparameter search against as many runs of the script that people copy.

The script and searches take turns, so that a busy neighbour meets both: some epochs of the script, a search with a cold
cache, a second one over the same data. One run of the script is run, the others are counted as equal. Then train is
given what trials were given, and searches that end hopeless trials early take turns with searches that do not.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from serving.machine import num_cpus
from tests.bench import agreement, baselines, pictures, searches
from tests.bench.searches import Pruning, Search
from tests.bench.train import Turns

PARTS: Final = ("search", "agreement", "pruning")
SPACE: Final = {
    "lr": {"type": "continuous", "min": 0.0005, "max": 0.01, "scale": "log"},
    "batch-size": {"type": "categorical", "values": [16, 32, 64]},
}
WIDE_SPACE: Final = {**SPACE, "lr": {"type": "continuous", "min": 1e-5, "max": 1.0, "scale": "log"}}
PRUNED_TRIALS: Final = 40
PRUNED_EPOCHS: Final = 16
LEARNS: Final = ("--arch", "resnet18", "--optimizer", "adam", "--schedule", "constant")
"""As the usual script does."""


@dataclass(frozen=True)
class Bench:
    """What all rounds share."""

    folder: Path
    data: Path
    weights: Path

    @property
    def cache(self) -> Path:
        """Of searches; kept between a cold one and those after it."""
        return self.folder / "cache"

    def search(self, name: str, space: object, *flags: str) -> Search:
        """A whole search that begins without a study."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        before, busy_cores = self._passes(), baselines.busy_cores(baselines.QUIET_S)
        command = [*self._command("components.tune"), "--weights", str(self.weights), "--space", json.dumps(space)]
        command += ["--output-dir", str(place / "output"), "--checkpoint-dir", str(place / "checkpoints")]
        command += ["--model-dir", str(place / "model"), *LEARNS, *flags]
        wall_s, log = _timed(command)
        rows = searches.read_table((place / "output" / "trials.csv").read_text())
        passes = len(self._passes() - before)
        return Search(wall_s, searches.read_phases(log), rows, passes, busy_cores)

    def train(self, hyperparameters: Path) -> float:
        """The lowest valid_loss of a training by a file of hyperparameters."""
        model = self.folder / "model"
        for path in (model, self.folder / "model.output", self.folder / "model.checkpoints"):
            shutil.rmtree(path, ignore_errors=True)
        command = self._command("components.train")
        _timed([*command, "--hyperparameters", str(hyperparameters), "--model-dir", str(model)])
        lines = (self.folder / "model.output" / "metrics.jsonl").read_text().splitlines()
        return min(float(json.loads(line)["valid_loss"]) for line in lines)

    def _command(self, stage: str) -> list[str]:
        return [sys.executable, "-m", stage, "--data", str(self.data), "--cache-dir", str(self.cache)]

    def _passes(self) -> set[str]:
        return {path.name for path in self.cache.glob("features-*")}


@dataclass(frozen=True)
class Rounds:
    """What was measured of the script and of searches."""

    usual_s: float
    cold: tuple[Search, ...]
    warm: tuple[Search, ...]
    imports_s: tuple[float, ...]


def main() -> int:
    """Measure, and print figures."""
    given = _arguments()
    chosen = given.only.split(",") if given.only else list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        print(f"error: --only got {', '.join(sorted(unknown))}, expected some of {', '.join(PARTS)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="kennel-bench-") as made:
        folder = Path(made)
        data, weights = pictures.materials(folder, given.pictures, given.photos)
        result = measure(Bench(folder, data, weights), given, chosen)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=4000, help="how many; below 4000 the figures do not count")
    parser.add_argument("--photos", type=Path, help="folder of photographs to cut pictures from, beside scikit-learn's")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pruned-trials", type=int, default=PRUNED_TRIALS, help="of searches that prune, or do not")
    parser.add_argument("--pruned-epochs", type=int, default=PRUNED_EPOCHS)
    parser.add_argument("--only", help=f"some of the parts, with commas between: {','.join(PARTS)}")
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    return parser.parse_args()


def measure(bench: Bench, given: argparse.Namespace, chosen: Sequence[str]) -> dict[str, object]:
    """Take turns, print what came out, and return all of it."""
    rounds, apart, pairs = None, [], []
    if "search" in chosen:
        rounds = take_turns(bench, given.rounds, given.trials, given.epochs)
    if "agreement" in chosen:
        agreement.report()
        apart = agree(bench, given.trials, given.epochs)
    if "pruning" in chosen:
        pairs = prune(bench, given.rounds, given.pruned_trials, given.pruned_epochs)
    workers = min(num_cpus(), given.trials)
    cold, warm = (rounds.cold, rounds.warm) if rounds else ((), ())
    judged = searches.judge(rounds.usual_s if rounds else None, cold, warm, apart, workers)
    print(
        f"\nfrozen ResNet-18, 224 px, {given.pictures} pictures, {num_cpus()} cores, medians of {given.rounds} rounds"
    )
    if rounds:
        report(rounds, given, workers)
    if pairs:
        report_pruning(pairs, given)
    print("\nfigures")
    print("\n".join(figure.line() for figure in judged))
    return {
        "cores": num_cpus(),
        "given": {name: value for name, value in vars(given).items() if isinstance(value, int | str)},
        "rounds": asdict(rounds) if rounds else None,
        "apart": apart,
        "pruning": [asdict(pair) for pair in pairs],
        "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in judged],
    }


def take_turns(bench: Bench, count: int, trials: int, epochs: int) -> Rounds:
    """In each round some epochs of the script, a cold search and a warm one."""
    usual = Turns(bench.data, bench.weights)
    cold, warm, imports_s = [], [], []
    flags = ("--trials", str(trials), "--epochs", str(epochs), "--keep-best")
    for number in range(1, count + 1):
        for _ in range(epochs * (number - 1) // count, epochs * number // count):
            usual.epoch()
        imports_s.append(_timed([sys.executable, "-c", "import components.tune.run"])[0])
        shutil.rmtree(bench.cache, ignore_errors=True)
        cold.append(bench.search("cold", SPACE, *flags))
        warm.append(bench.search("warm", SPACE, *flags))
        print(
            f"round {number} of {count}: usual {statistics.median(usual.rates or [0]):.1f} images/s, search "
            f"{cold[-1].wall_s:.1f} s, the second {warm[-1].wall_s:.1f} s; others kept {cold[-1].busy_cores:.1f} and "
            f"{warm[-1].busy_cores:.1f} cores busy before them",
            flush=True,
        )
    usual.end()
    return Rounds(usual.seconds, tuple(cold), tuple(warm), tuple(imports_s))


def agree(bench: Bench, trials: int, epochs: int) -> list[float]:
    """Give train what the best trial was given, and what the one with the highest rate was."""
    search = bench.search("agreement", SPACE, "--trials", str(trials), "--epochs", str(epochs))
    best = json.loads((bench.folder / "agreement" / "output" / "best_hyperparameters.json").read_text())
    fastest = max(search.rows, key=lambda row: float(row.parameters["lr"]))
    apart = []
    for row in dict.fromkeys((search.best.number, fastest.number)):
        tried = {name.replace("_", "-"): value for name, value in search.rows[row].parameters.items()}
        path = bench.folder / "hyperparameters.json"
        path.write_text(json.dumps(best | tried))
        trial, train = search.rows[row].valid_loss, bench.train(path)
        if trial is None:
            raise RuntimeError(f"trial {row} is not complete")
        apart.append(trial - train)
        print(f"trial {row}, {tried}: valid_loss {trial:.6f}, by train {train:.6f}", flush=True)
    return apart


def prune(bench: Bench, count: int, trials: int, epochs: int) -> list[Pruning]:
    """Searches with ASHA and without any pruning, from the same sampler seed, in turns."""
    shared = ("--epochs", str(epochs))
    bench.search("warming", WIDE_SPACE, "--trials", "1", "--epochs", "1")  # features, should they not be there
    pairs = []
    for number in range(count):
        flags = (*shared, "--trials", str(trials), "--sampler-seed", str(number))
        names = ("asha", "none") if number % 2 else ("none", "asha")
        found = {name: bench.search(name, WIDE_SPACE, *flags, "--pruner", name) for name in names}
        pairs.append(searches.pruning(found["asha"], found["none"]))
        print(f"round {number + 1} of {count}: ASHA {_pruning_line(pairs[-1])}", flush=True)
    return pairs


def report(rounds: Rounds, given: argparse.Namespace, workers: int) -> None:
    """Print where the time went."""
    cold_s, warm_s = (statistics.median(one.wall_s for one in some) for some in (rounds.cold, rounds.warm))
    print(
        f"  the usual script, {given.epochs} epochs  {rounds.usual_s:7.1f} s; one was run, {given.trials} are counted"
    )
    print(f"  a search of {given.trials} trials        {cold_s:7.1f} s, cold cache, start to bundle")
    print(f"  a second one               {warm_s:7.1f} s")
    if given.trials * rounds.usual_s > 0:
        print(f"  the search takes 1/{given.trials * rounds.usual_s / cold_s:.1f} of {given.trials} runs of the script")
    imports_s = statistics.median(rounds.imports_s)
    for name, some in (("cold", rounds.cold), ("warm", rounds.warm)):
        parts = ", ".join(f"{part} {spent:.1f}" for part, spent in searches.median_phases(some).items())
        rest_s = statistics.median(one.rest_s for one in some)
        print(f"  {name}, s: start and end {rest_s:.1f} (importing alone {imports_s:.1f}), {parts}")
    if given.trials > workers:
        beyond = searches.overhead((*rounds.cold, *rounds.warm), workers)
        first = ", ".join(f"{spent:.2f}" for spent in sorted(searches.overhead(rounds.warm, workers).first_s))
        print(
            f"  beyond a trial's epochs: {beyond.median_s:.3f} s, at most {beyond.largest_s:.3f}; of it "
            f"{beyond.worker_s:.3f} in the worker (head, optimizer, checkpoint, weights), {beyond.search_s:.3f} in the "
            "search (sampler, journal, waiting)"
        )
        print(f"  of the first trials of workers, that make ready what trials share, warm: {first} s")
    busy = statistics.median(one.busy_cores for one in (*rounds.cold, *rounds.warm))
    print(f"  others kept {busy:.1f} of {num_cpus()} cores busy between searches")


def report_pruning(pairs: Sequence[Pruning], given: argparse.Namespace) -> None:
    """Print what ASHA is worth."""
    names = asdict(pairs[0])
    median = replace(pairs[0], **{name: statistics.median(asdict(pair)[name] for pair in pairs) for name in names})
    print(f"  ASHA, {given.pruned_trials} trials of {given.pruned_epochs} epochs: {_pruning_line(median)}")


def _pruning_line(pair: Pruning) -> str:
    return (
        f"saves {pair.epochs_saved:.0%} of the epochs, {pair.trials_saved:.0%} of the trials' time and "
        f"{pair.wall_saved:.0%} of the whole search's, and its best valid_loss is {pair.objective_lost:+.6f} off"
    )


def _timed(command: Sequence[str]) -> tuple[float, str]:
    """Seconds of a command, and what it printed."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    spent = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return spent, done.stdout


if __name__ == "__main__":
    sys.exit(main())
