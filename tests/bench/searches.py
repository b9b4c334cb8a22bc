"""From a search's log and its table of trials to figures: where time went, what a trial cost, what pruning saved."""

import csv
import io
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.bench.figures import Figure

UNITS_S: Final = {"h": 3600, "min": 60, "s": 1}


@dataclass(frozen=True)
class Row:
    """One trial, as trials.csv has it."""

    number: int
    status: str
    parameters: Mapping[str, str]
    valid_loss: float | None
    """None: it is not complete."""
    elapsed_s: float
    """From being asked for to being told of."""
    seconds: float
    """Of its worker, without preparing what trials share."""
    epochs_s: float
    epochs: int


@dataclass(frozen=True)
class Search:
    """One search."""

    wall_s: float
    """Of its process, from before it started until it was gone."""
    phases_s: Mapping[str, float]
    """As its log has them."""
    rows: tuple[Row, ...]
    passes: int
    """Splits whose features it computed and did not find."""
    busy_cores: float
    """What others kept busy before it began."""

    @property
    def rest_s(self) -> float:
        """What no phase holds: the interpreter, imports, the end of processes."""
        return self.wall_s - sum(self.phases_s.values())

    @property
    def best(self) -> Row:
        """The complete trial with the lowest valid_loss."""
        return min((row for row in self.rows if row.valid_loss is not None), key=lambda row: row.valid_loss or 0.0)


@dataclass(frozen=True)
class Overhead:
    """What trials cost beside the epochs of their heads, in s."""

    median_s: float
    largest_s: float
    worker_s: float
    """The median of what of it is the worker's: a head and an optimizer, a checkpoint, weights that are kept."""
    search_s: float
    """The median of the rest: asking the sampler, journalling, waiting for the search to listen."""
    first_s: tuple[float, ...]
    """Of the first trial of each worker, in which it makes ready what trials share."""


@dataclass(frozen=True)
class Pruning:
    """What ending hopeless trials early saved, and what it cost; shares of the search that ended none."""

    epochs_saved: float
    trials_saved: float
    """Of the time that trials took, without the start and the end of the search."""
    wall_saved: float
    objective_lost: float
    """By how much the best valid_loss is higher; negative when it is lower."""


def read_table(text: str) -> tuple[Row, ...]:
    """Trials of a trials.csv."""
    return tuple(_row(record) for record in csv.DictReader(io.StringIO(text)))


def _row(record: Mapping[str, str]) -> Row:
    names = list(record)
    return Row(
        number=int(record["TrainingJobName"].removeprefix("trial-")),
        status=record["TrainingJobStatus"],
        parameters={name: record[name] for name in names[: names.index("TrainingJobName")]},
        valid_loss=float(record["valid_loss"]) if record.get("valid_loss") else None,
        elapsed_s=float(record["TrainingElapsedTimeSeconds"] or "nan"),
        seconds=float(record["seconds"]),
        epochs_s=float(record["epochs_s"]),
        epochs=int(record["epochs_done"]),
    )


def read_phases(log: str) -> dict[str, float]:
    """Seconds of each part of a search, from the line of its log.

    Raises:
        ValueError: There is none.
    """
    found = re.search(r"^time: (.+)$", log, re.MULTILINE)
    if found is None:
        raise ValueError(f"the log says nothing of time: {log[-500:]!r}")
    parts = (re.fullmatch(r"(.+?) (\d.*)", part) for part in found[1].split(", "))
    return {part[1]: seconds(part[2]) for part in parts if part is not None}


def seconds(said: str) -> float:
    """A time as logs say it: 12.3 s, 4 min 05 s, 2 h 10 min."""
    return sum(float(value) * UNITS_S[unit] for value, unit in re.findall(r"([\d.]+) (h|min|s)\b", said))


def overhead(searches: Iterable[Search], workers: int) -> Overhead:
    """Over complete trials of all searches; the first `workers` of each are the first ones of their workers."""
    rows = [row for search in searches for row in search.rows if row.valid_loss is not None]
    first = [row for row in rows if row.number < workers]
    others = [row for row in rows if row.number >= workers]
    beyond = [row.elapsed_s - row.epochs_s for row in others]
    return Overhead(
        median_s=statistics.median(beyond),
        largest_s=max(beyond),
        worker_s=statistics.median(row.seconds - row.epochs_s for row in others),
        search_s=statistics.median(row.elapsed_s - row.seconds for row in others),
        first_s=tuple(row.elapsed_s - row.epochs_s for row in first),
    )


def pruning(pruned: Search, whole: Search) -> Pruning:
    """Of two searches that differ in nothing else."""
    return Pruning(
        epochs_saved=_saved(*(sum(row.epochs for row in search.rows) for search in (pruned, whole))),
        trials_saved=_saved(*(search.phases_s["trials"] for search in (pruned, whole))),
        wall_saved=_saved(pruned.wall_s, whole.wall_s),
        objective_lost=(pruned.best.valid_loss or 0.0) - (whole.best.valid_loss or 0.0),
    )


def _saved(less: float, more: float) -> float:
    return 1 - less / more


def median_phases(searches: Sequence[Search]) -> dict[str, float]:
    """Of all searches, in the order of the first one's; a search that lacks a part took no time for it."""
    return {
        name: statistics.median(search.phases_s.get(name, 0.0) for search in searches) for name in searches[0].phases_s
    }


def judge(
    usual_s: float | None,
    cold: Sequence[Search],
    warm: Sequence[Search],
    apart: Sequence[float],
    workers: int,
) -> list[Figure]:
    """All figures that `make bench-tune` is about; what was not measured stays in the list.

    Args:
        usual_s: The usual script, once.
        cold: Searches that began with an empty cache.
        warm: Searches over the same data after them.
        apart: Objectives of trials, less what train makes of the same settings.
        workers: Trials at once.
    """
    num_trials = len(cold[0].rows) if cold else 0
    times = num_trials * usual_s / statistics.median(one.wall_s for one in cold) if cold and usual_s else None
    beyond = overhead([*cold, *warm], workers) if any(len(one.rows) > workers for one in cold) else None
    return [
        Figure(f"{num_trials} runs of the usual script by one cold search of as many", times, 30, True, 60),
        Figure("splits that a second search sends through the backbone", _most(one.passes for one in warm), 0, False),
        Figure("valid_loss of trials against train with their settings", _most(map(abs, apart)), 1e-3, False),
        Figure("overhead of a trial, median", beyond.median_s if beyond else None, 0.2, False, unit="s"),
        Figure("overhead of a trial, largest", beyond.largest_s if beyond else None, 0.2, False, unit="s"),
    ]


def _most(values: Iterable[float]) -> float | None:
    return max(values, default=None)
