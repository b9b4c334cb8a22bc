"""The winner: scored once more, through the whole network as it is served, and written as a bundle when asked for."""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from components.train.graph import Graph
from components.train.learn import dtype_of
from components.train.metrics import EpochResult, accuracy, cross_entropy
from components.train.prepare import Prepared
from components.train.publish import publish
from components.train.settings import TrainSettings
from components.train.workplace import Workplace
from components.tune import remains
from components.tune.ground import Ground
from components.tune.messages import Task
from components.tune.training import train_trial
from components.tune.trials import Trial
from serving import files
from serving.bundle import ONNX_MODEL
from serving.engines import Logits
from serving.engines.onnx_engine import open_session
from serving.errors import EngineError
from serving.machine import num_cpus

logger = logging.getLogger(__name__)

BATCH_SIZE: Final = 32
TOLERANCES: Final = {torch.float32: 1e-2, torch.bfloat16: 5e-2}
"""Of valid_loss, by what trials computed in: what comes of features and of whole pictures differs in the last digits,
or is not the same network."""


@dataclass(frozen=True)
class Score:
    """What the whole network makes of the valid split."""

    valid_loss: float
    valid_accuracy: float


class Winner:
    """A complete trial whose network is put together again."""

    def __init__(self, trial: Trial, settings: TrainSettings, ground: Ground, workplace: Workplace, folder: Path):
        """Load what the trial learnt, or learn it again if another machine did.

        Args:
            trial: A complete one.
            settings: Its settings.
            ground: Has what it stands on.
            workplace: Where it is done.
            folder: What the trial left.
        """
        self._trial = trial
        self._settings = settings
        self._workplace = workplace
        self._prepared, self._history = _put_together(trial, settings, ground, workplace, folder)
        self._logits: Logits | None = None

    def score(self) -> Score:
        """Run every picture of the valid split through the whole network, by the engine that serves.

        Raises:
            EngineError: It says something else than the trial did.
        """
        valid = self._prepared.splits["valid"]
        self._logits = _infer(self._prepared, self._workplace)
        found = Score(cross_entropy(self._logits, valid.targets), accuracy(self._logits, valid.targets))
        expected = min(result.valid_loss for result in self._history)
        if abs(found.valid_loss - expected) > TOLERANCES[dtype_of(self._settings, self._workplace.world)] * max(
            1.0, expected
        ):
            raise EngineError(
                f"the winner's valid_loss is {found.valid_loss:.6f} through the whole network and was {expected:.6f} "
                "in its trial: please report it with the log"
            )
        return found

    def write(self, model: Path, output: Path) -> None:
        """Write its bundle to `model`, and what people read of it to `output`, as train does."""
        publish(
            self._prepared, self._settings, self._history, self._logits, self._workplace, model=model, output=output
        )


def _put_together(
    trial: Trial, settings: TrainSettings, ground: Ground, workplace: Workplace, folder: Path
) -> tuple[Prepared, tuple[EpochResult, ...]]:
    prepared = ground.of(settings)
    learner = prepared.new_learner(settings)
    history = remains.read_history(folder)
    if not (history and remains.load_learnt(learner, folder)):
        logger.info("trial %d was run by another machine: it is run once more, for its weights", trial.number)
        task = Task(trial.number, settings, folder)
        run, _ = train_trial(task, prepared, workplace.world, lambda _: True)
        learner, history = run.learner, tuple(run.history)
        learner.load_state_dict(run.best_state, strict=False)
    if prepared.inputs.are_features:
        prepared.network.replace(learner)
    else:
        prepared.network.replace(prepared.new_head(settings))
        prepared.network.load_state_dict(learner.state_dict())
    return prepared, history


def _infer(prepared: Prepared, workplace: Workplace) -> Logits:
    pixels = prepared.splits["valid"].pixels
    with tempfile.TemporaryDirectory(prefix=files.ASIDE_PREFIX) as folder:
        Graph(prepared.network, prepared.spec, workplace.cache).write(Path(folder))
        session = open_session(Path(folder) / ONNX_MODEL, num_cpus())
    (entry,) = session.get_inputs()
    answered = []
    for start in range(0, len(pixels), BATCH_SIZE):
        batch = np.ascontiguousarray(pixels[start : start + BATCH_SIZE])
        answered.append(session.run(None, {entry.name: batch})[0])
        workplace.progress("the winner, whole", min(start + BATCH_SIZE, len(pixels)), len(pixels))
    return np.concatenate(answered)
