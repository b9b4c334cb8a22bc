"""What a training stands on: labels, decoded images, a network with its first weights, and what the loop is given.

A training prepares and learns once; a search prepares once and learns as often as it has trials.
"""

import copy
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from components.cache import Cache
from components.data.decode import Split
from components.data.duplicates import handle_duplicates
from components.data.index import Index
from components.data.sources import open_index
from components.data.splits import SPLITS
from components.environment import Environment
from components.model import input_spec, make_network, new_head
from components.progress import Progress
from components.train import inputs
from components.train.features import hash_backbone
from components.train.inputs import Inputs
from components.train.report import write_class_counts
from components.train.settings import TrainSettings
from components.train.workplace import Workplace
from components.train.world import World
from components.weights import CHANNELS as WEIGHTS_CHANNELS
from components.weights import NONE, find_weights
from serving.bundle import Head, InputSpec
from serving.engines.torch_network import Network
from serving.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What any number of trainings may stand on whose `TrainSettings.foundation` is the same."""

    settings: TrainSettings
    labels: tuple[str, ...]
    spec: InputSpec
    splits: Mapping[str, Split]
    network: Network
    """With its first weights."""
    inputs: Inputs

    @property
    def learner(self) -> nn.Module:
        """What learns: the network, or its head alone when features are the inputs."""
        return self.network.head if self.inputs.are_features else self.network

    def new_learner(self, settings: TrainSettings) -> nn.Module:
        """What a training of these settings starts from, so that the network itself stays as it is."""
        head = self.new_head(settings)
        if self.inputs.are_features:
            return head
        network = copy.deepcopy(self.network)
        network.replace(head)
        return network

    def new_head(self, settings: TrainSettings) -> nn.Module:
        """A head with its first weights: a copy of the network's, or another, where settings ask for one."""
        own = (head_of(self.settings), self.settings.seed)
        head, seed = head_of(settings), settings.seed
        if (head, seed) == own:
            return copy.deepcopy(self.network.head)
        return new_head(self.network, head, len(self.labels), seed).to(self.network.mean.device)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Of data and first weights but the head's, by what they are of, as a checkpoint's identity has them."""
        data = {
            f"the {name} split": _digest([part.digests, part.targets.tolist()]) for name, part in self.splits.items()
        }
        return data | {
            "the backbone's first weights": hash_backbone(self.network),
            "the list of labels": _digest(self.labels),
        }


def prepare(
    settings: TrainSettings,
    environment: Environment,
    workplace: Workplace,
    *,
    index: Index | None = None,
    lists: Path | None = None,
    with_test: bool = False,
) -> Prepared:
    """Index, decode, build the network, and compute features where they can stand in for pixels.

    Args:
        settings: Of the training.
        environment: Whose channels are read when no folder is named.
        workplace: Where it is done.
        index: Of the images, where they were listed before.
        lists: Folder for lists of what is odd about the data; None: another process writes them.
        with_test: Whether the test split is among the inputs.

    Raises:
        UserError: Settings or data cannot be used as they are; says which and why.
    """
    world, cache, progress, phases = workplace.world, workplace.cache, workplace.progress, workplace.phases
    spec, head = input_spec(settings.image_size), head_of(settings)
    with phases.measured("index"):
        index = index or index_images(settings, environment, cache, progress)
        # Before the images are decoded: a wrong name of an architecture should not cost minutes.
        network = _network(settings, head, index.labels, spec, environment, world)
    with phases.measured("decode"):
        splits = _decode(index, spec, settings, cache, lists, progress)
        _check_same(splits, world)
    with phases.measured("features"):
        looked_at = {name: split for name, split in splits.items() if name != "test" or with_test}
        chosen = inputs.choose(network, spec, looked_at, settings, cache, world, progress)
    return Prepared(settings, index.labels, spec, splits, network, chosen)


def index_images(settings: TrainSettings, environment: Environment, cache: Cache, progress: Progress) -> Index:
    """List the images that settings and environment name.

    Raises:
        DataError: See `open_index`.
    """
    given = {split: getattr(settings, split) for split in SPLITS if getattr(settings, split) is not None}
    channels = given or {name: path for name, path in environment.channels.items() if name not in WEIGHTS_CHANNELS}
    return open_index(
        settings.data, channels, cache, seed=settings.seed, class_order=settings.class_order, progress=progress
    )


def head_of(settings: TrainSettings) -> Head:
    """The classifier that settings ask for.

    Raises:
        ConfigError: It is linear and has settings of the other.
    """
    if settings.head == "linear" and (settings.hidden is not None or settings.dropout > 0):
        raise ConfigError("--hidden and --dropout are the mlp's: add --head mlp")
    return Head(kind=settings.head, hidden=settings.hidden, dropout=settings.dropout)


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


def _network(
    settings: TrainSettings,
    head: Head,
    labels: tuple[str, ...],
    spec: InputSpec,
    environment: Environment,
    world: World,
) -> Network:
    weights = find_weights(settings.weights, settings.arch, environment.channels)
    if weights == NONE and settings.freeze == "backbone":
        logger.warning("the backbone is frozen and knows nothing: let it learn (--freeze none), or give it --weights")
    network = make_network(
        settings.arch, head, labels, spec, weights=weights, freeze=settings.freeze, seed=settings.seed
    )
    logger.info("device: %s, %d threads", world.device, torch.get_num_threads())
    return network.to(world.device).to(memory_format=torch.channels_last)  # convolutions run 1.4 times as fast


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
