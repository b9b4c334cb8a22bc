"""The tune stage: labelled images and a search space to the best hyperparameters."""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from components import folders, presets
from components.cache import Cache, default_folder
from components.data.index import Index
from components.environment import Environment
from components.progress import Progress
from components.report import tuning
from components.report.page import Card
from components.report.scales import duration, number, percent
from components.train.workplace import Workplace
from components.train.world import World
from components.tune import remains
from components.tune.board import Board
from components.tune.distributions import to_optuna
from components.tune.foundations import Foundations
from components.tune.ground import Ground
from components.tune.identity import owner_of, study_name
from components.tune.latency import Latencies
from components.tune.objective import LATENCY
from components.tune.pool import Pool
from components.tune.pruner import PrunerName
from components.tune.results import write_best, write_table
from components.tune.sampler import SeededSampler
from components.tune.search import Search
from components.tune.settings import DEFAULT_TRIALS, TuneSettings, search_space
from components.tune.space import Space, describe
from components.tune.storage import answering, hang_up, open_storage, own
from components.tune.study import Study
from components.tune.trials import Trial, chosen
from components.tune.winner import Score, Winner
from components.tune.worker import Post
from serving import files
from serving.engines.torch_network import list_architectures
from serving.errors import ConfigError, UserError
from serving.flags import nearest
from serving.machine import num_cpus

logger = logging.getLogger(__name__)

TRIALS: Final = "trials"


def tune(settings: TuneSettings, environment: Environment) -> None:
    """Search, and write best_hyperparameters.json, trials.csv and tuning.html; the best bundle when asked for.

    Raises:
        UserError: Settings, space or data cannot be used as they are, or every trial failed; says which and why.
    """
    progress = Progress()
    try:
        _tune(settings, environment, progress)
    finally:
        progress.close()


def _tune(settings: TuneSettings, environment: Environment, progress: Progress) -> None:
    space = search_space(settings)
    _check(settings, space, environment)
    torch.set_num_threads(num_cpus())
    place = _Folders(settings, environment)
    give_up = own(place.checkpoints)
    try:
        folders.sweep(place.model, place.output, place.checkpoints)
        cache = Cache(settings.cache_dir or default_folder(), settings.cache_limit_gb)
        workplace = Workplace(World(), cache, progress)
        foundations = Foundations(environment, workplace, with_test=_looks_at_test(settings), lists=place.output)
        with workplace.phases.measured("index"):
            images = foundations.index(settings)  # what is wrong with them is said before anything starts
        _announce(settings, space)
        with workplace.phases.measured("workers"):
            hired = Pool(_posts(settings, num_trials_of(settings, space), environment))
        with hired as pool:
            wants_latency = any(objective.metric == LATENCY for objective in settings.objectives)
            ground = Ground(foundations, workplace, Latencies(place.checkpoints) if wants_latency else None)
            with answering(settings.storage):
                _Run(settings, environment, space, place, workplace, ground, pool, images).complete()
    finally:
        give_up()


@dataclass(frozen=True)
class _Run:
    """One search, from its first trial to its results."""

    settings: TuneSettings
    environment: Environment
    space: Space
    place: "_Folders"
    workplace: Workplace
    ground: Ground
    pool: Pool
    images: Index

    def complete(self) -> None:
        settings = self.settings
        num_trials = num_trials_of(settings, self.space)
        distributions = to_optuna(self.space)
        sampler = SeededSampler(settings.sampler, distributions, seed=settings.sampler_seed, lag=self.pool.size)
        name = study_name(settings, self.space, self.images, self.environment.channels)
        storage = open_storage(settings.storage, self.place.checkpoints)
        study = Study(
            storage,
            name,
            settings.objectives,
            sampler,
            distributions,
            pruner=_pruner(settings, self.space),
            owner=owner_of(self.place.checkpoints),
        )
        board = Board(settings.objectives, num_trials)
        found = study.trials()
        if found:
            over = sum(trial.state != "running" for trial in found)
            logger.info("study: %d trials are over already, %d of %d are to do", over, num_trials - over, num_trials)
        kept = self.place.checkpoints / TRIALS / name  # of this study: another one's trials have the same numbers
        search = Search(study, settings, num_trials, self.ground, self.pool, board, kept)
        try:
            with closing(study), self.workplace.phases.measured("trials"):
                trials = search.run()
        finally:
            board.pause()  # also when it was stopped: a terminal without a cursor is no good to anybody
        self._conclude(trials, study, kept)
        hang_up(storage)

    def _conclude(self, trials: Sequence[Trial], study: Study, kept: Path) -> None:
        settings, objectives, output = self.settings, self.settings.objectives, self.place.output
        write_table(output, trials, objectives)
        best = next(iter(chosen(trials, objectives)), None)
        if best is None:
            self._write_page(trials, study, None)
            raise UserError(_why_none(trials))
        found = settings.of_trial(best.parameters)
        path = write_best(output, found, list(self.space))
        page = self._write_page(trials, study, None)  # what is known is written before anything else can go wrong
        with self.workplace.phases.measured("score"):
            winner = Winner(best, found, self.ground, self.workplace, remains.folder_of(kept, best.number))
            score = winner.score()
        writes_bundle = settings.keep_best and self.environment.hosts.rank == 0  # of many hosts, one does
        if writes_bundle:
            winner.write(self.place.model, output)
        with self.workplace.phases.measured("page"):
            self._write_page(trials, study, score)
        _summarise(trials, best, score, self.ground, self.workplace, settings)
        logger.info("best hyperparameters: %s (for train's --hyperparameters)", path)
        logger.info("trials: %s, %s", output / "trials.csv", page)
        if writes_bundle:
            logger.info("bundle: %s", self.place.model)

    def _write_page(self, trials: Sequence[Trial], study: Study, score: Score | None) -> Path:
        saved_s, features_s = self.ground.saved_s, self.ground.features_s
        facts = []
        if score is not None:
            facts.append(
                Card(
                    "The best, scored once more",
                    number(score.valid_loss),
                    f"valid loss through the whole network; valid accuracy {percent(score.valid_accuracy)}",
                )
            )
        if features_s >= 1 and saved_s > 0:
            facts.append(
                Card("Saved by the cache", duration(saved_s), f"features were computed once, in {duration(features_s)}")
            )
        title = f"{len(self.images.labels)} labels, {', '.join(self.space)}"
        page = tuning.tuning_page(
            trials, self.space, self.settings.objectives, study.importances(), title=title, facts=facts
        )
        path = self.place.output / tuning.FILE
        files.write_text(path, page)
        return path


class _Folders:
    """Where things go: the flag's folder, else the platform's, else out/tune and what is beside it."""

    def __init__(self, settings: TuneSettings, environment: Environment) -> None:
        self.output = settings.output_dir or environment.output_dir or Path("out/tune")
        checkpoints = (
            settings.checkpoint_dir or environment.checkpoint_dir or folders.beside(self.output, "checkpoints")
        )
        hosts = environment.hosts  # who may share a disk, or have theirs synchronised with one place
        self.checkpoints = checkpoints / f"host-{hosts.rank}" if hosts.count > 1 else checkpoints
        self.model = settings.model_dir or environment.model_dir or Path("out/model")
        folders.make(self.output, self.checkpoints, *([self.model] if settings.keep_best else []))


def num_trials_of(settings: TuneSettings, space: Space) -> int:
    """Trials in all: as asked for, else as the preset's system ran, else a few; of a grid all, and no more."""
    known = presets.read(settings.preset).trials if settings.preset else None
    asked = settings.trials or known
    if settings.sampler != "grid":
        return asked or DEFAULT_TRIALS
    all_of_it = SeededSampler("grid", to_optuna(space), seed=settings.sampler_seed).num_combinations or DEFAULT_TRIALS
    return min(asked or all_of_it, all_of_it)


def _check(settings: TuneSettings, space: Space, environment: Environment) -> None:
    """What can be known to be wrong before anything starts."""
    objectives = settings.objectives
    known = list_architectures()
    tried = space.get("arch")
    for name in (settings.arch, *(getattr(tried, "values", ()) if tried else ())):
        if name not in known:
            raise ConfigError(
                f'architecture "{name}" does not exist, expected a torchvision classification model such as resnet18'
                f"{nearest(str(name), known)}"
            )
    if environment.hosts.count > 1 and settings.storage is None:
        raise ConfigError(
            f"{environment.hosts.count} hosts would each search alone: give one, or a --storage that all can reach"
        )
    for objective in objectives:
        if objective.is_of_test:
            logger.warning(
                "--objective %s chooses by the test split: the winner is then the one that happens to fit these very "
                "images, and what the test split says of it is too good; valid_loss leaves it untouched for the end",
                objective.metric,
            )


def _announce(settings: TuneSettings, space: Space) -> None:
    for line in describe(space).splitlines():
        logger.info("space: %s", line)
    pruner = _pruner(settings, space)
    logger.info(
        "search: %d trials by %s for %s; %s",
        num_trials_of(settings, space),
        settings.sampler,
        " and ".join(f"{objective.direction[:3]}imal {objective.metric}" for objective in settings.objectives),
        "no trial is ended early" if pruner == "none" else f"hopeless trials are ended early ({pruner})",
    )


def _pruner(settings: TuneSettings, space: Space) -> PrunerName:
    if len(settings.objectives) > 1 or settings.objectives[0].metric == LATENCY:
        return "none"  # of several, none tells who is hopeless; latency is the same after every epoch
    if settings.pruner != "auto":
        return settings.pruner
    is_frozen = settings.freeze == "backbone" and "freeze" not in space
    return "none" if is_frozen else "asha"


def _posts(settings: TuneSettings, num_trials: int, environment: Environment) -> list[Post]:
    num_gpus = torch.cuda.device_count()
    count = min(settings.parallel_trials or num_gpus or num_cpus(), num_trials)
    post = Post(
        environment=environment,
        cache_dir=settings.cache_dir or default_folder(),
        cache_limit_gb=settings.cache_limit_gb,
        with_test=_looks_at_test(settings),
        threads=max(1, num_cpus() // count),
        gpu=0,
    )
    return [replace(post, gpu=place % max(1, num_gpus)) for place in range(count)]


def _looks_at_test(settings: TuneSettings) -> bool:
    return any(objective.is_of_test for objective in settings.objectives)


def _why_none(trials: Sequence[Trial]) -> str:
    """Why no trial is complete."""
    if not trials:
        return "no trial was begun: use a longer --search-time-limit"
    reasons = [trial.reason for trial in trials if trial.state == "failed"]
    first = f"; the first one's reason: {reasons[0]}" if reasons else ""
    what = "failed" if len(reasons) == len(trials) else "failed or were ended early"
    return f"all of {len(trials)} trials {what}{first}"


def _summarise(
    trials: Sequence[Trial],
    best: Trial,
    score: Score,
    ground: Ground,
    workplace: Workplace,
    settings: TuneSettings,
) -> None:
    states = [trial.state for trial in trials]
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed") if state in states
    )
    logger.info("trials: %s", counts)
    for objective, value in zip(settings.objectives, best.values, strict=True):
        logger.info("best: trial %d, %s=%.6f", best.number, objective.metric, value)
    for name, chosen_value in best.parameters.items():
        logger.info("best: %s %s", name.replace("_", "-"), chosen_value)
    logger.info("the best, whole network: valid_loss=%.6f valid_accuracy=%.4f", score.valid_loss, score.valid_accuracy)
    if ground.features_s >= 1 and ground.saved_s > 0:  # else they came from the cache
        logger.info(
            "features: computed once, in %s; trials were spared %s",
            duration(ground.features_s),
            duration(ground.saved_s),
        )
    logger.info(
        "time: %s", ", ".join(f"{name} {duration(seconds)}" for name, seconds in workplace.phases.seconds.items())
    )
