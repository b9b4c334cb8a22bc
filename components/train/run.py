"""The train stage: labelled images to a bundle."""

import logging
from pathlib import Path

import torch

from components import folders
from components.cache import Cache, default_folder
from components.environment import Environment
from components.progress import Progress
from components.train.learn import begun_or_resumed, may_stop
from components.train.loop import Observer, Run, fit, infer
from components.train.observers import BatchProgress, EpochLog
from components.train.prepare import Prepared, prepare
from components.train.publish import publish
from components.train.settings import TrainSettings
from components.train.sources import describe_loading
from components.train.tensorboard import TensorBoard
from components.train.workplace import Workplace
from components.train.world import World
from serving.bundle import Bundle
from serving.machine import num_cpus

logger = logging.getLogger(__name__)


def train(settings: TrainSettings, environment: Environment, world: World | None = None) -> Bundle | None:
    """Train on a folder of images and write the bundle.

    Returns:
        The bundle; None in processes other than the leader.

    Raises:
        UserError: Settings or data cannot be used as they are; says which and why.
    """
    world = world or World()
    progress = Progress(is_quiet=not world.is_leader)
    try:
        return _train(settings, environment, world, progress)
    finally:
        progress.close()


def _train(settings: TrainSettings, environment: Environment, world: World, progress: Progress) -> Bundle | None:
    if not world.is_leader:
        logging.getLogger("components").setLevel(logging.ERROR)  # one voice, for warnings too
    torch.set_num_threads(max(1, num_cpus() // world.local_size))
    place = _Folders(settings, environment)
    if world.is_leader:
        folders.sweep(place.model, place.output, place.checkpoints)
    world.wait()  # nobody writes before
    workplace = Workplace(world, Cache(settings.cache_dir or default_folder(), settings.cache_limit_gb), progress)
    lists = place.output if world.is_leader else None
    prepared = prepare(settings, environment, workplace, lists=lists)
    if prepared.inputs.are_features and world.size > 1:
        # Handing a head's gradients around would take longer than computing them, and would change their last digits.
        if not world.is_leader:
            return None
        logger.info("features are shared out, and the head learns in process 0 alone")
        world = World(local_rank=world.local_rank)
        torch.set_num_threads(num_cpus())
    logger.info("%s", describe_loading(prepared.inputs.train, world.device))
    with workplace.phases.measured("train"):
        run = _learn(prepared, settings, place, world, progress)
    if not world.is_leader:
        return None
    # Of features the head's answers cost nothing; of pixels the engine that serves is faster than torch.
    valid_logits = infer(run, prepared.inputs.valid) if prepared.inputs.are_features else None
    return publish(prepared, settings, run.history, valid_logits, workplace, model=place.model, output=place.output)


def _learn(prepared: Prepared, settings: TrainSettings, place: "_Folders", world: World, progress: Progress) -> Run:
    """Train what was prepared; its network ends with the best epoch's weights."""
    run, checkpoints = begun_or_resumed(prepared, settings, prepared.learner, world, place.checkpoints)
    observers: list[Observer] = [EpochLog(place.output), BatchProgress(progress)]
    observers += [TensorBoard(place.output / "tensorboard")] if settings.tensorboard and world.is_leader else []
    fit(run, prepared.inputs.train, prepared.inputs.valid, [*observers, *may_stop(settings), checkpoints])
    if world.is_leader:
        run.learner.load_state_dict(run.best_state, strict=False)
    return run


class _Folders:
    """Where things go: the flag's folder, else the platform's, else beside the model."""

    def __init__(self, settings: TrainSettings, environment: Environment) -> None:
        self.model = settings.model_dir or environment.model_dir or Path("out/model")
        self.output = settings.output_dir or environment.output_dir or folders.beside(self.model, "output")
        self.checkpoints = (
            settings.checkpoint_dir or environment.checkpoint_dir or folders.beside(self.model, "checkpoints")
        )
        folders.make(self.model, self.output, self.checkpoints)
