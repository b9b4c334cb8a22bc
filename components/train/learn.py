"""From settings to a run of the loop: plan, optimizer, observers that may end it, what it is known by."""

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.optim import Optimizer

from components.environment import stop_signal
from components.model import parameter_groups
from components.train.augment import Mixing
from components.train.checkpoint import Checkpoints
from components.train.ema import Average
from components.train.features import hash_head
from components.train.loop import Observer, Run
from components.train.observers import EarlyStopping, TimeLimit
from components.train.plan import Plan, balanced_weights
from components.train.prepare import Prepared
from components.train.settings import TrainSettings
from components.train.sources import Source
from components.train.world import World
from components.weights import NONE
from serving.engines.torch_network import Network

PACKAGES: Final = ("torch", "torchvision", "onnxruntime", "numpy", "pillow")


def new_run(prepared: Prepared, settings: TrainSettings, learner: nn.Module, world: World) -> Run:
    """A training before its first step.

    Args:
        prepared: What it stands on.
        settings: Of the loop.
        learner: With its first weights; see `Prepared.new_learner`.
        world: Who trains together.
    """
    plan = _plan(settings, prepared.inputs.train, len(prepared.labels), world)
    average = Average(learner, settings.ema) if settings.ema else None
    return Run(learner, _optimizer(learner, settings), plan, world, average)


def begun_or_resumed(
    prepared: Prepared, settings: TrainSettings, learner: nn.Module, world: World, folder: Path
) -> tuple[Run, Checkpoints]:
    """A training where its newest checkpoint in `folder` left it, or before its first step.

    Returns:
        The run, and the observer that saves it, which is to be the last of its observers.
    """
    run = new_run(prepared, settings, learner, world)
    checkpoints = Checkpoints(
        folder,
        identity(prepared, settings, learner),
        interval_s=settings.checkpoint_interval_s,
        stop_signal=stop_signal,
        facts=facts(settings, world),
    )
    checkpoints.resume(run)
    return run, checkpoints


def may_stop(settings: TrainSettings) -> list[Observer]:
    """What may end a training before its epochs are done."""
    observers: list[Observer] = [EarlyStopping(settings.patience)] if settings.patience else []
    return observers + ([TimeLimit(settings.time_limit)] if settings.time_limit else [])


def identity(prepared: Prepared, settings: TrainSettings, learner: nn.Module) -> dict[str, str]:
    """What makes a training this one, by name: a checkpoint of another is not gone on from."""
    options = {f"--{name.replace('_', '-')}": str(value) for name, value in settings.learnt_from().items()}
    head = learner.head if isinstance(learner, Network) else learner
    return options | prepared.hashes | {"the head's first weights": hash_head(prepared.network.head_path, head)}


def facts(settings: TrainSettings, world: World) -> dict[str, str]:
    """What the last digits of the weights depend on, by name."""
    return {
        "threads": str(torch.get_num_threads()),
        "processes": str(world.size),
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
        "--micro-batch": str(settings.micro_batch),
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        **_versions(),
    }


@cache
def _versions() -> Mapping[str, str]:
    """Of packages: looking them up takes as long as a small head's epoch, and a search asks for every trial."""
    return {name: version(name) for name in PACKAGES}


def _plan(settings: TrainSettings, train: Source, num_labels: int, world: World) -> Plan:
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
        dtype=dtype_of(settings, world),
    )


def dtype_of(settings: TrainSettings, world: World) -> torch.dtype:
    """What a training computes in; weights are float32."""
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
