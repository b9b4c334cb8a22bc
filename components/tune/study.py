"""The study: which trials there are and what came of them, kept where a killed search finds it again."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import NopPruner
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from components.tune import importance, pruner
from components.tune.heartbeat import Heartbeat
from components.tune.objective import Objective
from components.tune.pruner import Other, PrunerName
from components.tune.sampler import SeededSampler, shown
from components.tune.space import Value
from components.tune.trials import State, Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)
logger = logging.getLogger(__name__)

OWNER: Final = "owner"
OUTCOME: Final = "outcome"
STATES: Final[dict[TrialState, State]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
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
            pruner=NopPruner(),
            directions=[objective.direction for objective in objectives],
            load_if_exists=True,
        )
        self._objective = objectives[0]
        self._pruner: PrunerName = pruner if len(objectives) == 1 else "none"
        self._lag = sampler.lag
        self._distributions = dict(distributions)
        self._owner = owner
        self._running: dict[int, optuna.Trial] = {}
        self._heartbeat = Heartbeat(self._study)
        self._left = [trial for trial in self._frozen() if trial.state == TrialState.RUNNING and self._is_own(trial)]
        for trial in self._left:
            self._heartbeat.begin(trial._trial_id)  # noqa: SLF001  # no other way to it

    def close(self) -> None:
        """Give no more signs of life: other machines are given what is under way."""
        self._heartbeat.close()

    @property
    def is_shared(self) -> bool:
        """Whether other machines may work on it."""
        return self._heartbeat.is_shared

    @property
    def has_unfinished(self) -> bool:
        """Whether the next trial is one that was left unfinished."""
        return bool(self._left)

    @property
    def next_number(self) -> int:
        """Of the trial that is handed out next, unless another machine is faster."""
        return self._left[0].number if self._left else len(self._frozen())

    def ask(self, num_trials: int) -> Asked | None:
        """The next trial: one that was left unfinished, one that a dead machine left, or a new one.

        Args:
            num_trials: In all.

        Returns:
            None when there is none after all, since other machines were faster.
        """
        is_again = bool(self._left)
        if is_again:
            found = self._left.pop(0)
            trial = optuna.Trial(self._study, found._trial_id)  # noqa: SLF001  # no other way back
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that nobody beats for it: `Heartbeat` does
                trial = self._study.ask()
            self._heartbeat.begin(trial._trial_id)  # noqa: SLF001
            if sum(not _is_lost(other) for other in self._frozen() if other.number < trial.number) >= num_trials:
                self._end(trial, None, TrialState.FAIL)
                return None
        try:
            trial.set_user_attr(OWNER, self._owner)
            parameters = {name: _suggested(trial, name, given) for name, given in self._distributions.items()}
        except UpdateFinishedTrialError:
            self._lose(trial)
            return None
        self._running[trial.number] = trial
        return Asked(trial.number, parameters, is_again)

    def is_hopeless(self, number: int, epoch: int, value: float) -> bool:
        """Whether the trial may as well end after `epoch` (from 1), at which its objective was `value`."""
        if self._pruner == "none":
            return False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an epoch that was reported before a restart is reported again
                self._running[number].report(value, epoch)
        except UpdateFinishedTrialError:
            return True  # it is another machine's by now
        others = [
            Other(trial.intermediate_values, trial.state == TrialState.COMPLETE)
            for trial in shown(self._frozen(), number, self._lag)
        ]
        return pruner.is_hopeless(self._pruner, self._objective, epoch, value, others)

    def tell(self, number: int, ended: Ended) -> bool:
        """Take in how a trial ended; returns whether it still was this machine's."""
        trial = self._running.pop(number)
        outcome = {
            "state": ended.state,
            "losses": list(ended.losses),
            "seconds": ended.seconds,
            "epochs_s": ended.epochs_s,
            "reason": ended.reason,
        }
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        try:
            trial.set_user_attr(OUTCOME, outcome)
            self._end(trial, list(ended.values) or None, states[ended.state])
        except UpdateFinishedTrialError:
            self._lose(trial)
            return False
        return True

    def look_after_others(self) -> None:
        """Queue again what machines left that are dead by now."""
        if self.is_shared:
            silent = [trial for trial in self._frozen() if trial.state == TrialState.RUNNING and not _has_owner(trial)]
            self._heartbeat.look_after(trial._trial_id for trial in silent)  # noqa: SLF001

    def trials(self) -> list[Trial]:
        """All that were begun, but those that a dead machine left, in order of their numbers."""
        begun = (trial for trial in self._frozen() if trial.state != TrialState.WAITING)
        return [_record(trial) for trial in begun if not _is_lost(trial)]

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
        """In a study that several machines share, one without an owner may be one that another has just begun."""
        return not self.is_shared or bool(trial.user_attrs.get(OWNER) == self._owner)

    def _end(self, trial: optuna.Trial, values: list[float] | None, state: TrialState) -> None:
        self._heartbeat.end(trial._trial_id)  # noqa: SLF001
        self._study.tell(trial, values, state=state, skip_if_finished=True)

    def _lose(self, trial: optuna.Trial) -> None:
        self._heartbeat.end(trial._trial_id)  # noqa: SLF001
        logger.warning(
            "trial %d was taken from this machine, which was silent for too long; another one runs it", trial.number
        )


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


def _has_owner(trial: FrozenTrial) -> bool:
    return OWNER in trial.user_attrs


def _is_lost(trial: FrozenTrial) -> bool:
    """Failed without anybody to say so: its machine died, or it was one too many."""
    outcome: Mapping[str, Any] = trial.user_attrs.get(OUTCOME, {})
    return trial.state == TrialState.FAIL and outcome.get("state") != "failed"
