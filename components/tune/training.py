"""A trial's training: train's own loop, that asks after every epoch whether to go on."""

from collections.abc import Callable

from components.train.learn import begun_or_resumed, may_stop
from components.train.loop import Observer, Run, evaluate, fit
from components.train.metrics import EpochResult
from components.train.prepare import Prepared
from components.train.world import World
from components.tune import remains
from components.tune.messages import Task


def train_trial(
    task: Task, prepared: Prepared, world: World, may_go_on: Callable[[EpochResult], bool]
) -> tuple[Run, dict[str, float]]:
    """Train a trial, going on from its checkpoint if there is one, and keep what it learnt in its folder.

    Returns:
        The run, and metrics of the weights of its best epoch by name.

    Raises:
        UserError: The loss is not finite, or memory does not hold a step.
    """
    settings = task.settings
    run, checkpoints = begun_or_resumed(prepared, settings, prepared.new_learner(settings), world, task.folder)
    for result in run.history:
        run.is_stopped |= not may_go_on(result)
    observers = [_Relay(may_go_on), *may_stop(settings), checkpoints]
    fit(run, prepared.inputs.train, prepared.inputs.valid, observers)
    best = min(run.history, key=lambda result: result.valid_loss)
    metrics = {"valid_loss": best.valid_loss, "valid_accuracy": best.valid_accuracy}
    if prepared.inputs.test is not None:
        run.learner.load_state_dict(run.best_state, strict=False)
        loss, accuracy = evaluate(run, prepared.inputs.test, settings.micro_batch or settings.batch_size)
        metrics |= {"test_loss": loss, "test_accuracy": accuracy}
    remains.keep(run, task.folder)
    return run, metrics


class _Relay(Observer):
    """Asks after every epoch whether to go on."""

    def __init__(self, may_go_on: Callable[[EpochResult], bool]) -> None:
        self._may_go_on = may_go_on

    def on_epoch(self, run: Run, result: EpochResult) -> bool:
        """Ask."""
        return self._may_go_on(result)
