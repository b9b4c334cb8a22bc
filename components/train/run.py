"""The train stage: labelled images to a bundle."""

import hashlib
import json
import logging
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.optim import Optimizer

from components.cache import Cache, default_folder
from components.data.decode import Split
from components.data.duplicates import handle_duplicates
from components.data.index import Index
from components.data.sources import open_index
from components.data.splits import SPLITS
from components.environment import Environment, stop_signal
from components.model import input_spec, make_network, parameter_groups
from components.progress import Progress
from components.train import inputs
from components.train.augment import Mixing
from components.train.checkpoint import Checkpoints
from components.train.ema import Average
from components.train.export import Card, Learnt, export
from components.train.features import hash_backbone, hash_head
from components.train.graph import Graph
from components.train.loop import Observer, Run, fit, infer
from components.train.observers import BatchProgress, EarlyStopping, EpochLog, TimeLimit
from components.train.plan import Plan, balanced_weights
from components.train.report import Phases, report, write_class_counts
from components.train.settings import TrainSettings
from components.train.sources import FeatureSource, describe_loading
from components.train.tensorboard import TensorBoard
from components.train.world import World
from components.weights import CHANNELS as WEIGHTS_CHANNELS
from components.weights import NONE, find_weights
from serving import files
from serving.bundle import Bundle, Head, InputSpec
from serving.engines.torch_network import Network
from serving.errors import ConfigError, DataError
from serving.machine import num_cpus

logger = logging.getLogger(__name__)

PACKAGES: Final = ("torch", "torchvision", "onnxruntime", "numpy", "pillow")


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
    phases = Phases()
    if not world.is_leader:
        logging.getLogger("components").setLevel(logging.ERROR)  # one voice, for warnings too
    torch.set_num_threads(max(1, num_cpus() // world.local_size))
    folders = _Folders(settings, environment)
    if world.is_leader:
        folders.sweep()
    world.wait()  # nobody writes before
    cache = Cache(settings.cache_dir or default_folder(), settings.cache_limit_gb)
    spec, head = input_spec(settings.image_size), _head(settings)
    with phases.measured("index"):
        index = _index(settings, environment, cache, progress)
        # Before the images are decoded: a wrong name of an architecture should not cost minutes.
        network = _network(settings, head, index.labels, spec, environment, world)
    with phases.measured("decode"):
        splits = _decode(index, spec, settings, cache, folders.output if world.is_leader else None, progress)
        _check_same(splits, world)
    with phases.measured("features"):
        chosen = inputs.choose(network, spec, splits, settings, cache, world, progress)
    if isinstance(chosen.train, FeatureSource) and world.size > 1:
        # Handing a head's gradients around would take longer than computing them, and would change their last digits.
        if not world.is_leader:
            return None
        logger.info("features are shared out, and the head learns in process 0 alone")
        world = World(local_rank=world.local_rank)
        torch.set_num_threads(num_cpus())
    logger.info("%s", describe_loading(chosen.train, world.device))
    plan = _plan(settings, splits["train"], len(index.labels), world)
    average = Average(chosen.learner, settings.ema) if settings.ema else None
    run = Run(chosen.learner, _optimizer(chosen.learner, settings), plan, world, average)
    checkpoints = Checkpoints(
        folders.checkpoints,
        _identity(settings, index.labels, splits, network),
        interval_s=settings.checkpoint_interval_s,
        stop_signal=stop_signal,
        facts=_facts(settings, world),
    )
    checkpoints.resume(run)
    with phases.measured("train"):
        fit(run, chosen.train, chosen.valid, [*_observers(settings, folders, world, progress), checkpoints])
    if not world.is_leader:
        return None
    run.learner.load_state_dict(run.best_state, strict=False)
    best = min(run.history, key=lambda result: result.valid_loss)
    # Of features the head's answers cost nothing; of pixels the engine that serves is faster than torch.
    learnt = Learnt(best, infer(run, chosen.valid) if isinstance(chosen.valid, FeatureSource) else None)
    with phases.measured("export and test"):
        card = Card(settings.arch, head, index.labels, spec, settings.learnt_from())
        seen = splits | {"train": inputs.as_seen(splits["train"], spec)}
        exported = export(
            Graph(network, spec, cache),
            card,
            learnt,
            seen,
            folders.model,
            progress,
            int8_tolerance=settings.int8_tolerance,
        )
    report(exported, run.history, splits["test"], phases.seconds, folders.output)
    return exported.bundle


class _Folders:
    """Where things go: the flag's folder, else the platform's, else beside the model."""

    def __init__(self, settings: TrainSettings, environment: Environment) -> None:
        self.model = settings.model_dir or environment.model_dir or Path("out/model")
        self.output = settings.output_dir or environment.output_dir or self._beside("output")
        self.checkpoints = settings.checkpoint_dir or environment.checkpoint_dir or self._beside("checkpoints")
        for folder in (self.model, self.output, self.checkpoints):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"cannot write to {str(folder)!r}: {error.strerror}") from error

    def sweep(self) -> None:
        """Delete what killed processes left half-written."""
        for folder in (self.model, self.output, self.checkpoints):
            files.sweep(folder)

    def _beside(self, what: str) -> Path:
        model = self.model.absolute()  # of "." there is no name
        return model.with_name(f"{model.name}.{what}")


def _index(settings: TrainSettings, environment: Environment, cache: Cache, progress: Progress) -> Index:
    given = {split: getattr(settings, split) for split in SPLITS if getattr(settings, split) is not None}
    channels = given or {name: path for name, path in environment.channels.items() if name not in WEIGHTS_CHANNELS}
    return open_index(
        settings.data, channels, cache, seed=settings.seed, class_order=settings.class_order, progress=progress
    )


def _decode(
    index: Index, spec: InputSpec, settings: TrainSettings, cache: Cache, lists: Path | None, progress: Progress
) -> dict[str, Split]:
    """Decode, and write lists of what is odd to the folder `lists`: the leader's."""
    splits = inputs.decode(index, spec, settings, cache, lists and lists / "unreadable.csv", progress)
    # Only who drops has to look where nobody lists.
    policy = "keep" if lists is None and settings.duplicates == "report" else settings.duplicates
    stay = handle_duplicates(policy, splits, index.labels, lists and lists / "duplicates.csv")
    kept = {name: split.keep(stay[name]) for name, split in splits.items()}
    if lists is not None:
        write_class_counts(index.labels, {name: split.targets for name, split in kept.items()}, lists)
    return kept


def _check_same(splits: dict[str, Split], world: World) -> None:
    """Each process takes its part of every batch by the places of images, so all have to have the same ones."""
    content = json.dumps([(name, split.digests, split.targets.tolist()) for name, split in splits.items()])
    mine = torch.frombuffer(bytearray(hashlib.sha256(content.encode()).digest()), dtype=torch.uint8)
    leaders = mine.clone()
    world.broadcast([leaders])
    if world.any(not torch.equal(mine, leaders)):
        raise DataError(
            "hosts have different images, and each needs all of them: let SageMaker's channels be FullyReplicated "
            "(S3DataDistributionType), or mount the same folder everywhere"
        )


def _head(settings: TrainSettings) -> Head:
    if settings.head == "linear" and (settings.hidden is not None or settings.dropout > 0):
        raise ConfigError("--hidden and --dropout are the mlp's: add --head mlp")
    return Head(kind=settings.head, hidden=settings.hidden, dropout=settings.dropout)


def _network(
    settings: TrainSettings,
    head: Head,
    labels: tuple[str, ...],
    spec: InputSpec,
    environment: Environment,
    world: World,
) -> Network:
    torch.manual_seed(settings.seed)
    weights = find_weights(settings.weights, settings.arch, environment.channels)
    if weights == NONE and settings.freeze == "backbone":
        logger.warning("the backbone is frozen and knows nothing: let it learn (--freeze none), or give it --weights")
    network = make_network(settings.arch, head, labels, spec, weights=weights, freeze=settings.freeze)
    logger.info("device: %s, %d threads", world.device, torch.get_num_threads())
    return network.to(world.device).to(memory_format=torch.channels_last)  # convolutions run 1.4 times as fast


def _plan(settings: TrainSettings, train: Split, num_labels: int, world: World) -> Plan:
    is_balanced = settings.class_weights == "balanced"
    mixes = settings.mixup > 0 or settings.cutmix > 0
    return Plan(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=settings.lr,
        seed=settings.seed,
        schedule=settings.schedule,
        warmup=settings.warmup,
        micro_batch=settings.micro_batch,
        clip_norm=settings.clip_norm,
        label_smoothing=settings.label_smoothing,
        label_weights=balanced_weights(train.targets, num_labels) if is_balanced else None,
        mixing=Mixing(settings.mixup, settings.cutmix, settings.seed) if mixes else None,
        dtype=_dtype(settings, world),
    )


def _dtype(settings: TrainSettings, world: World) -> torch.dtype:
    if settings.precision == "auto":
        has_it = world.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_it else torch.float32
    return torch.bfloat16 if settings.precision == "bfloat16" else torch.float32


def _optimizer(learner: nn.Module, settings: TrainSettings) -> Optimizer:
    groups = _groups(learner, settings)
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, **common)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, fused=True, **common)


def _groups(learner: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """Parameters that learn; those of a pretrained backbone have to keep what they know, so they move less."""
    if not isinstance(learner, Network):
        return [{"params": list(learner.parameters())}]
    groups = parameter_groups(learner)
    factor = 1.0 if settings.weights == NONE else settings.backbone_lr_factor
    return [{"params": groups["head"]}] + [{"params": groups["backbone"], "factor": factor}] * bool(groups["backbone"])


def _observers(settings: TrainSettings, folders: _Folders, world: World, progress: Progress) -> list[Observer]:
    observers: list[Observer] = [EpochLog(folders.output), BatchProgress(progress)]
    observers += [TensorBoard(folders.output / "tensorboard")] if settings.tensorboard and world.is_leader else []
    observers += [EarlyStopping(settings.patience)] if settings.patience else []
    observers += [TimeLimit(settings.time_limit)] if settings.time_limit else []
    return observers


def _identity(
    settings: TrainSettings, labels: tuple[str, ...], splits: dict[str, Split], network: Network
) -> dict[str, str]:
    """What makes this run this one: a checkpoint of another is not gone on from."""

    def digest(content: object) -> str:
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    options = {f"--{name.replace('_', '-')}": str(value) for name, value in settings.learnt_from().items()}
    data = {f"the {name} split": digest([part.digests, part.targets.tolist()]) for name, part in splits.items()}
    first = {"the backbone's first weights": hash_backbone(network), "the head's first weights": hash_head(network)}
    return options | data | first | {"the list of labels": digest(labels)}


def _facts(settings: TrainSettings, world: World) -> dict[str, str]:
    """What the last digits of the weights depend on."""
    versions = {name: version(name) for name in PACKAGES}
    return {
        "threads": str(torch.get_num_threads()),
        "processes": str(world.size),
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
        "--micro-batch": str(settings.micro_batch),
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        **versions,
    }
