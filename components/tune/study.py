"""The study: which trials there are and what came of them, kept where a killed search finds it again."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import BaseStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from components.tune import importance
from components.tune.objective import Objective
from components.tune.sampler import SeededSampler
from components.tune.space import Value
from components.tune.trials import State, Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)
logger = logging.getLogger(__name__)

PrunerName = Literal["asha", "median", "none"]

OWNER: Final = "owner"
OUTCOME: Final = "outcome"
STATES: Final[dict[TrialState, State]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}


@dataclass(frozen=True)
class Asked:
    """A trial that is to be run."""

    number: int
    parameters: Mapping[str, Value]
    is_again: bool
    """Whether a search before this one left it unfinished."""


@dataclass(frozen=True)
class Ended:
    """How a trial ended."""

    state: Literal["complete", "pruned", "failed"]
    values: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    seconds: float = 0.0
    reason: str = ""
    epochs_s: float = 0.0


def make_pruner(name: PrunerName) -> BasePruner:
    """ASHA (Li et al. 2020, arXiv 1810.05934) halves at each step; the median's waits for five trials."""
    if name == "asha":
        return SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return MedianPruner() if name == "median" else NopPruner()


class Study:
    """Hands out trials and takes in what came of them; all that is known of them is in the storage."""

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        objectives: Sequence[Objective],
        sampler: SeededSampler,
        distributions: Mapping[str, BaseDistribution],
        *,
        pruner: PrunerName,
        owner: str,
    ) -> None:
        """Open the study of this name, or begin it.

        Args:
            storage: Where it is kept.
            name: The same for the same search, and for no other.
            objectives: The first decides what is pruned.
            sampler: Chooses hyperparameters.
            distributions: By setting.
            pruner: Of hopeless trials; with several objectives there is none.
            owner: Of the trials that are handed out here: those that a killed search of the same owner left
                unfinished are handed out again.
        """
        self._study = optuna.create_study(
            storage=storage,
            study_name=name,
            sampler=sampler,
            pruner=make_pruner(pruner if len(objectives) == 1 else "none"),
            directions=[objective.direction for objective in objectives],
            load_if_exists=True,
        )
        self._distributions = dict(distributions)
        self._owner = owner
        self._running: dict[int, optuna.Trial] = {}
        self._left = [trial for trial in self._frozen() if trial.state == TrialState.RUNNING and self._is_own(trial)]

    @property
    def has_unfinished(self) -> bool:
        """Whether the next trial is one that was left unfinished."""
        return bool(self._left)

    @property
    def next_number(self) -> int:
        """Of the trial that is handed out next, unless another machine is faster."""
        return self._left[0].number if self._left else len(self._frozen())

    def ask(self) -> Asked:
        """The next trial: one that was left unfinished, one that a dead machine left, or a new one."""
        if self._left:
            found = self._left.pop(0)
            trial, is_again = optuna.Trial(self._study, found._trial_id), True  # noqa: SLF001  # no other way back
        else:
            with _unwarned():
                fail_stale_trials(self._study)
            trial, is_again = self._study.ask(), False
        trial.set_user_attr(OWNER, self._owner)
        parameters = {name: _suggested(trial, name, given) for name, given in self._distributions.items()}
        self._running[trial.number] = trial
        return Asked(trial.number, parameters, is_again)

    def is_hopeless(self, number: int, epoch: int, value: float) -> bool:
        """Whether the trial may as well end after `epoch` (from 1), at which its objective was `value`."""
        if isinstance(self._study.pruner, NopPruner):
            return False
        trial = self._running[number]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an epoch that was reported before a restart is reported again
            trial.report(value, epoch)
        return bool(trial.should_prune())

    def tell(self, number: int, ended: Ended) -> None:
        """Take in how a trial ended."""
        trial = self._running.pop(number)
        outcome = {
            "losses": list(ended.losses),
            "seconds": ended.seconds,
            "epochs_s": ended.epochs_s,
            "reason": ended.reason,
        }
        trial.set_user_attr(OUTCOME, outcome)
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        self._study.tell(trial, list(ended.values) or None, state=states[ended.state])

    def beat(self) -> None:
        """Let other machines know that this one is alive."""
        storage = self._study._storage  # noqa: SLF001  # a study does not give it
        if isinstance(storage, optuna.storages._heartbeat.BaseHeartbeat) and storage.get_heartbeat_interval():  # noqa: SLF001
            for trial in self._running.values():
                storage.record_heartbeat(trial._trial_id)  # noqa: SLF001

    def trials(self) -> list[Trial]:
        """All but those that a dead machine left and that were handed out again, in order of their numbers."""
        return [_record(trial) for trial in self._frozen() if not _is_lost(trial)]

    def importances(self) -> dict[str, float]:
        """How much each setting matters for the first objective, adding up to 1; empty when too little is known."""
        complete = [trial for trial in self._frozen() if trial.state == TrialState.COMPLETE]
        if len(complete) < 4 or len({trial.values[0] for trial in complete}) < 2:
            return {}
        alone = optuna.create_study(direction=self._study.directions[0])
        alone.add_trials(
            optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=trial.values[0])
            for trial in complete
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings that had one value in all trials
            return importance.shares(alone)

    def _frozen(self) -> list[FrozenTrial]:
        return sorted(self._study.get_trials(deepcopy=False), key=lambda trial: trial.number)

    def _is_own(self, trial: FrozenTrial) -> bool:
        return bool(trial.user_attrs.get(OWNER, self._owner) == self._owner)


def _suggested(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Value:
    """What the sampler chose, or what was chosen when the trial was begun."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            chosen: Any = trial.suggest_categorical(name, choices)
        case IntDistribution(low=low, high=high, log=is_log):
            chosen = trial.suggest_int(name, low, high, log=is_log)
        case FloatDistribution(low=low, high=high, log=is_log):
            chosen = trial.suggest_float(name, low, high, log=is_log)
        case _:
            raise NotImplementedError(distribution)
    value: Value = chosen
    return value


def _record(trial: FrozenTrial) -> Trial:
    outcome: Mapping[str, Any] = trial.user_attrs.get(OUTCOME, {})
    return Trial(
        number=trial.number,
        state=STATES[trial.state],
        parameters=dict(trial.params),
        values=tuple(trial.values) if trial.state == TrialState.COMPLETE else (),
        losses=tuple(outcome.get("losses", ())),
        started=trial.datetime_start or datetime.now(),  # noqa: DTZ005  # Optuna's are of this machine's clock
        ended=trial.datetime_complete,
        seconds=outcome.get("seconds", 0.0),
        reason=outcome.get("reason", ""),
        epochs_s=outcome.get("epochs_s", 0.0),
    )


def _is_lost(trial: FrozenTrial) -> bool:
    """Failed without anybody to say why: its machine died, and it was handed out again under another number."""
    return trial.state == TrialState.FAIL and OUTCOME not in trial.user_attrs


@contextmanager
def _unwarned() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
