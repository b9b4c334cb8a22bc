"""What learns, and from what: the whole network from pixels, or its head from features that are computed once."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from components.cache import Cache
from components.data.decode import Progress, Split, decode_splits
from components.data.index import Index
from components.train.augment import CACHED_SCALE, Augmentation, Policy
from components.train.features import EngineName, Extractor
from components.train.settings import TrainSettings
from components.train.sources import AugmentedSource, FeatureSource, PixelSource, Source
from components.train.world import World
from serving.bundle import InputSpec
from serving.engines.torch_network import Network
from serving.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What the loop is given: features, from which a head learns, or pixels, from which the whole network does."""

    train: Source
    valid: Source
    test: Source | None = None
    """None when nobody looks at it while searching or training, as is best."""

    @property
    def are_features(self) -> bool:
        """Whether the head alone learns."""
        return isinstance(self.train, FeatureSource)


def policy_of(settings: TrainSettings) -> Policy:
    """How images are changed at random: a frozen backbone's are not, unless that is asked for."""
    if settings.augment != "auto":
        return settings.augment
    return "none" if settings.freeze == "backbone" else "basic"


def decode(
    index: Index, spec: InputSpec, settings: TrainSettings, cache: Cache, report: Path | None, progress: Progress
) -> dict[str, Split]:
    """Decode all splits: valid and test to what the network sees, train to what it is cropped from.

    Raises:
        DataError: See `decode_splits`.
    """
    specs = dict.fromkeys(index.splits, spec)
    if policy_of(settings) != "none":
        specs["train"] = _larger(spec)
    return decode_splits(index, specs, cache, max_unreadable=settings.max_unreadable, report=report, progress=progress)


def choose(
    network: Network,
    spec: InputSpec,
    splits: Mapping[str, Split],
    settings: TrainSettings,
    cache: Cache,
    world: World,
    progress: Progress,
) -> Inputs:
    """Choose the fastest way that learns the same, and say which it is and why.

    Args:
        network: What is to learn.
        spec: What it sees.
        splits: The train split and those that the loop is to be measured on: valid, and test if it is given.
        settings: Of the training.
        cache: Where features are kept.
        world: Who shares their computation.
        progress: Told how far it is.

    Raises:
        ConfigError: Cutmix is asked for where there are no pixels to cut.
    """
    train, policy = splits["train"], policy_of(settings)
    augmentation = None if policy == "none" else Augmentation(policy, settings.seed, spec.height)
    others = {name: split for name, split in splits.items() if name != "train"}
    if settings.freeze == "backbone":
        extractor = Extractor(network, spec, _engine(settings, world), world, cache, progress)
        if not world.any(not extractor.can_stand_in(splits["valid"])):
            if settings.cutmix > 0:
                raise ConfigError("--cutmix needs pixels and a frozen backbone learns from features: use --mixup")
            return _features(extractor, train, others, augmentation, settings.views)
        logger.info("features cannot be kept: something comes behind the head; every epoch runs the whole network")
    pixels = {name: PixelSource(split.pixels, split.targets) for name, split in others.items()}
    if augmentation is None:
        logger.info("learning from pixels: the whole network in every epoch, images decoded once")
        return Inputs(PixelSource(train.pixels, train.targets), **pixels)
    logger.info("learning from pixels changed at random (%s), images decoded once", policy)
    return Inputs(AugmentedSource(train.pixels, train.targets, augmentation, world.device), **pixels)


def _features(
    extractor: Extractor,
    train: Split,
    others: Mapping[str, Split],
    augmentation: Augmentation | None,
    num_views: int,
) -> Inputs:
    views = 1 if augmentation is None else num_views
    logger.info(
        "learning from features: the backbone is frozen, so %s computed once, by %s; epochs run the head alone",
        "they are" if views == 1 else f"{views} views of each image are",
        extractor.engine,
    )
    kept = [
        extractor.features(train, "train" if views == 1 else f"train, view {view + 1}", augmentation, view)
        for view in range(views)
    ]
    sources = {name: FeatureSource([extractor.features(split, name)], split.targets) for name, split in others.items()}
    return Inputs(FeatureSource(kept, train.targets), **sources)


def _engine(settings: TrainSettings, world: World) -> EngineName:
    if settings.feature_engine != "auto":
        return settings.feature_engine
    return "torch" if world.device.type == "cuda" else "onnx"  # measured on CPUs: 44 images/s against torch's 24


def _larger(spec: InputSpec) -> InputSpec:
    side = round(spec.height * CACHED_SCALE)
    return spec.model_copy(update={"height": side, "width": side, "resize_size": side})


def as_seen(split: Split, spec: InputSpec) -> Split:
    """A split with the pixels that the network sees: the middle of those that it is cropped from at random."""
    top, left = (
        (have - want) // 2 for have, want in zip(split.pixels.shape[1:3], (spec.height, spec.width), strict=True)
    )
    return replace(split, pixels=split.pixels[:, top : top + spec.height, left : left + spec.width])
