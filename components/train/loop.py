"""The loop: batches, steps, epochs. All else is an observer's, and the loop knows none of them by name."""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from components.model import learnt_state, set_training
from components.train.ema import Average
from components.train.metrics import EpochResult
from components.train.plan import Plan, batches, learning_rate, order
from components.train.sources import Places, Source, load
from components.train.step import Stepper
from components.train.world import World
from serving.engines.torch_network import Weights
from serving.errors import UserError


@dataclass
class Epoch:
    """Sums over the part of the current epoch that is done; what a checkpoint in the middle of it holds."""

    num_batches: int = 0
    num_samples: int = 0
    loss: float | Tensor = 0.0
    waited_s: float = 0.0
    seconds: float = 0.0


@dataclass
class Run:
    """The state of a training: what a checkpoint holds and what observers may look at."""

    learner: nn.Module
    """What learns: a network, or its head alone when features are the inputs."""
    optimizer: Optimizer
    plan: Plan
    world: World = field(default_factory=World)
    average: Average | None = None
    history: list[EpochResult] = field(default_factory=list)
    """Epochs done."""
    current: Epoch = field(default_factory=Epoch)
    best_state: Weights = field(default_factory=dict)
    """What was learnt by the epoch with the lowest valid_loss."""
    is_stopped: bool = False

    @property
    def epoch(self) -> int:
        """The current one, from 1."""
        return len(self.history) + 1

    @property
    def best_valid_loss(self) -> float:
        """Infinite before the first epoch."""
        return min((result.valid_loss for result in self.history), default=math.inf)


class Observer:
    """Looks on, and may ask to stop; an observer overrides what it cares for.

    The order of calls: `on_start`; for each epoch, for each batch `on_batch`, `on_backward`, `on_step`, and `on_epoch`
    at its end; `on_end`, also when something was raised.
    """

    def on_start(self, run: Run) -> None:
        """Training starts, or goes on from where a checkpoint left it."""

    def on_batch(self, run: Run, batch: int, num_batches: int) -> None:
        """A batch is about to be computed; `batch` counts from 1."""

    def on_backward(self, run: Run, loss: Tensor) -> None:
        """Gradients are there, weights have not moved."""

    def on_step(self, run: Run, batch: int, num_batches: int) -> None:
        """Weights have moved. Setting `run.is_stopped` ends the epoch here."""

    def on_epoch(self, run: Run, result: EpochResult) -> bool:
        """An epoch is done and in `run.history`. Returns whether to go on."""
        return True

    def on_end(self, run: Run) -> None:
        """Training ended."""


def fit(run: Run, train: Source, valid: Source, observers: Sequence[Observer]) -> None:
    """Train until `run.plan.epochs` are done or an observer stops it.

    Order, dropout and augmentation of a step are drawn from (seed, epoch, batch), so a step is the same whether or not
    the process that computes it computed those before.

    Raises:
        UserError: The loss is not finite.
    """
    stepper = Stepper(run.learner, run.optimizer, run.plan, run.world)
    try:
        for observer in observers:
            observer.on_start(run)
        while not run.is_stopped and len(run.history) < run.plan.epochs:
            _train(run, stepper, train, observers)
            result = _close_epoch(run, valid)
            for observer in observers:
                run.is_stopped |= not observer.on_epoch(run, result)
    finally:
        for observer in observers:
            observer.on_end(run)


def evaluate(run: Run, source: Source, batch_size: int) -> tuple[float, float]:
    """Loss and accuracy on a split, each process computing its share."""
    run.learner.eval()
    run.world.broadcast(run.learner.buffers())  # batch statistics: those of the leader are kept
    device, dtype, count = run.world.device, run.plan.dtype, len(source.targets)
    mine = np.arange(count)[run.world.rank :: run.world.size]
    sums = torch.zeros(2, device=device)
    with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        for loaded in load(source, list(batches(mine, batch_size)) if len(mine) else [], 0, device):
            logits = run.learner(loaded.inputs).float()
            sums[0] += nn.functional.cross_entropy(logits, loaded.targets, reduction="sum")
            sums[1] += (logits.argmax(1) == loaded.targets).sum()
    loss, correct = run.world.sum(sums).tolist()
    return loss / count, correct / count


def infer(run: Run, source: Source) -> NDArray[np.float32]:
    """Logits (N, K) of a split, by the leader alone."""
    run.learner.eval()
    cut = list(batches(np.arange(len(source.targets)), run.plan.micro_batch or run.plan.batch_size))
    with torch.inference_mode():
        answered = [run.learner(loaded.inputs).float().cpu() for loaded in load(source, cut, 0, run.world.device)]
    return torch.cat(answered).numpy()


def _train(run: Run, stepper: Stepper, train: Source, observers: Sequence[Observer]) -> None:
    """What is left of the current epoch."""
    set_training(run.learner)
    cut = list(batches(order(run.plan, run.epoch, len(train.targets)), run.plan.batch_size))
    left = cut[run.current.num_batches :]

    def on_backward(loss: Tensor) -> None:
        for observer in observers:
            observer.on_backward(run, loss)

    started = time.perf_counter()
    for places, loaded in zip(left, load(train, _shares(left, run.world), run.epoch, run.world.device), strict=True):
        batch = run.current.num_batches + 1
        for observer in observers:
            observer.on_batch(run, batch, len(cut))
        loss = stepper.step(
            loaded,
            torch.from_numpy(train.targets[places]).to(run.world.device),
            epoch=run.epoch,
            batch=batch,
            lr=learning_rate(run.plan, (run.epoch - 1 + (batch - 1) / len(cut)) / run.plan.epochs),
            on_backward=on_backward,
        )
        if run.average is not None:
            run.average.update(run.learner)
        now = time.perf_counter()
        run.current.num_batches = batch
        run.current.num_samples += len(places)
        run.current.loss += loss * len(places)
        run.current.waited_s += loaded.waited_s
        run.current.seconds += now - started
        started = now
        for observer in observers:
            observer.on_step(run, batch, len(cut))
        if run.is_stopped:
            break


def _shares(cut: Sequence[Places], world: World) -> list[Places]:
    """This process's part of every batch, filled up with the batch's first samples where it does not divide evenly.

    Nobody gets a sample alone, which has no batch statistics; what fills up does not count in the loss.
    """
    sizes = [max(-(-len(places) // world.size), min(2, len(places))) for places in cut]
    return [
        np.resize(places, size * world.size)[world.rank :: world.size] for places, size in zip(cut, sizes, strict=True)
    ]


def _close_epoch(run: Run, valid: Source) -> EpochResult:
    done = run.current
    train_loss = float(done.loss) / done.num_samples
    started = time.perf_counter()
    with run.average.applied(run.learner) if run.average is not None else nullcontext():
        valid_loss, valid_accuracy = evaluate(run, valid, run.plan.micro_batch or run.plan.batch_size)
        if not (math.isfinite(train_loss) and math.isfinite(valid_loss)):
            raise UserError(
                f"the loss is not finite in epoch {run.epoch}: the training diverged, use a --lr below {run.plan.lr:g}"
            )
        if valid_loss < run.best_valid_loss:
            run.best_state = learnt_state(run.learner)
    result = EpochResult(
        epoch=run.epoch,
        train_loss=train_loss,
        valid_loss=valid_loss,
        valid_accuracy=valid_accuracy,
        best_valid_loss=min(valid_loss, run.best_valid_loss),
        lr=run.optimizer.param_groups[0]["lr"],
        seconds=done.seconds + time.perf_counter() - started,
        images_per_s=done.num_samples / max(done.seconds, 1e-9),
        waited_s=done.waited_s,
    )
    run.history.append(result)
    run.current = Epoch()
    return result
