"""Where a network's first weights come from, and whether they fit: torchvision, a file, an earlier bundle."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError  # the name of an error; nothing is unpickled
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor

from serving import bundle
from serving.bundle import Bundle, Head
from serving.engines.torch_network import Network, Weights
from serving.engines.torch_vision import models
from serving.errors import ConfigError

logger = logging.getLogger(__name__)

DEFAULT: Final = "default"
NONE: Final = "none"
MODEL_CHANNEL: Final = "model"
"""An earlier bundle, as SageMaker's incremental training hands it over."""
WEIGHTS_CHANNEL: Final = "weights"
"""Files of weights, for jobs without network."""
CHANNELS: Final = (MODEL_CHANNEL, WEIGHTS_CHANNEL)
"""Channels that hold no images."""
SUFFIXES: Final = (".pth", ".pt", ".safetensors")

BODY: Final = "body."
"""What `Network` puts before the names of an architecture's own weights."""
AUXILIARY: Final = ("AuxLogits.", "aux1.", "aux2.")
OLD_NAMES: Final = (
    # Published files keep names that torchvision has changed since (densenet.py, vision_transformer.py).
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(\.mlp)\.linear_2\."), r"\1.3."),
)


def find_weights(setting: str, architecture: str, channels: Mapping[str, Path]) -> str:
    """What `--weights` means on this machine: what was asked for, or else what a channel brings.

    Args:
        setting: `default`, `none`, or a path. Only `default` looks at channels.
        architecture: Whose file is picked from a channel of several.
        channels: All channels of the job; `model` comes before `weights`.

    Returns:
        `default`, `none`, or the path of a file or a bundle.

    Raises:
        ConfigError: A channel is there and holds no weights of this architecture.
    """
    if setting != DEFAULT:
        return setting
    for name in CHANNELS:
        if name in channels:
            found = _in_channel(name, channels[name], architecture)
            logger.info("weights: %s, from the %s channel", found.name, name)
            return str(found)
    return setting


def load_weights(network: Network, weights: str, architecture: str, head: Head, labels: Sequence[str]) -> None:
    """Give a network its first weights. All but an earlier bundle of the same labels leave the head as it is, random.

    Args:
        network: Freshly built.
        weights: `default` (torchvision's, from its cache or the network), `none`, a file with a state dict, or a
            bundle: its folder or its model.tar.gz.
        architecture: The network's.
        head: The network's.
        labels: What the network will tell apart, in order.

    Raises:
        ConfigError: They cannot be had, or do not fit; says which weight and which shapes.
        BundleError: The bundle is not whole.
    """
    if weights == NONE:
        return
    if weights == DEFAULT:
        state, with_head = _published(architecture), False
    elif _is_bundle(Path(weights)):
        with bundle.opened(Path(weights)) as opened:
            state, with_head = _from_bundle(opened, architecture, head, labels)
    else:
        state, with_head = _from_file(Path(weights)), False
    _load(network, state, with_head=with_head, source=weights, architecture=architecture)


def _in_channel(name: str, folder: Path, architecture: str) -> Path:
    if _is_bundle(folder):
        return folder
    files = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES) if folder.is_dir() else []
    # Names as torchvision publishes them: resnet50-11ad3fa6.pth.
    named = [path for path in files if path.stem == architecture or path.stem.startswith(f"{architecture}-")]
    fitting = named or files
    if len(fitting) == 1:
        return fitting[0]
    found = ", ".join(path.name for path in fitting) or "none"
    raise ConfigError(
        f"the {name} channel has to hold one file of weights of {architecture}, such as {architecture}.pth, or a "
        f"bundle; files of weights found: {found}"
    )


def _is_bundle(path: Path) -> bool:
    if path.is_dir():
        return (path / bundle.MANIFEST).exists() or (path / bundle.ARCHIVE).exists()
    return path.is_file() and path.name.endswith((".tar.gz", ".tgz", ".tar"))


def _from_bundle(opened: Bundle, architecture: str, head: Head, labels: Sequence[str]) -> tuple[Weights, bool]:
    manifest = opened.manifest
    if manifest.architecture != architecture:
        raise ConfigError(
            f"the bundle to start from holds a {manifest.architecture}, --arch says {architecture}: "
            f"use --arch {manifest.architecture}, or other --weights"
        )
    state = _plain_names(load_file(opened.file(bundle.WEIGHTS)))
    if manifest.labels == tuple(labels) and manifest.head == head:
        logger.info("weights: backbone and head of a bundle with the same %d labels", len(labels))
        return state, True
    what = "another head" if manifest.labels == tuple(labels) else "other labels"
    logger.info("weights: the backbone of a bundle with %s; the head starts from nothing", what)
    return state, False


def _published(architecture: str) -> Weights:
    try:
        published = models.get_model_weights(architecture).DEFAULT
        return _plain_names(published.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except ValueError as error:
        raise ConfigError(f'architecture "{architecture}" does not exist: {error}') from error
    except (OSError, RuntimeError, UnpicklingError) as error:  # RuntimeError: the hash of what was downloaded is wrong
        raise ConfigError(
            f"torchvision's weights of {architecture} cannot be downloaded or read ({str(error).splitlines()[0]}): "
            "give --weights FILE, or --weights none --freeze none to start from nothing"
        ) from error


def _first_sentence(error: Exception) -> str:
    """Of what torch says; it goes on to advise to execute what is in the file."""
    text = next(iter(str(error).splitlines()), type(error).__name__)
    return text.partition(". ")[0]


def _from_file(path: Path) -> Weights:
    if not path.is_file():
        raise ConfigError(
            f'--weights got "{path}", expected default, none, a file of weights, or a bundle; there is no such file: '
            "make weights ARCH=... fetches published ones"
        )
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds on files that are something else
        raise ConfigError(
            f"{str(path)!r} is not a file of weights (a state dict, .pth or .safetensors): {_first_sentence(error)}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ConfigError(f"{str(path)!r} does not hold a state dict (names to tensors)")
    return _plain_names(state)


def _plain_names(state: Mapping[str, Tensor]) -> Weights:
    """Names as the architecture has them today, whoever wrapped it: DataParallel, `Network`, an older torchvision."""
    plain = {}
    for name, tensor in state.items():
        current = name
        for prefix in ("module.", BODY):
            current = current.removeprefix(prefix)
        for old, new in OLD_NAMES:
            current = old.sub(new, current)
        plain[current] = tensor
    return plain


def _load(network: Network, state: Weights, *, with_head: bool, source: str, architecture: str) -> None:
    head = f"{network.head_path}."
    expected = {name.removeprefix(BODY): tensor for name, tensor in network.state_dict().items()}
    wanted = {name: tensor for name, tensor in expected.items() if with_head or not name.startswith(head)}
    given = {name: state[name] for name in state if with_head or not name.startswith(head)}
    given = _fit_positions(given, wanted, network)
    problems = _differences(given, wanted, architecture, container=network.head_path.partition(".")[0] + ".")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(
            f'weights "{source}" have {problems[0]}{more}: give weights of that architecture, or --weights none'
        )
    fitting = {BODY + name: given[name] for name in wanted if name in given}
    network.load_state_dict(fitting, strict=False)


def _differences(given: Weights, wanted: Weights, architecture: str, container: str) -> list[str]:
    """What does not fit, a phrase each; in `container` another head may have had layers of its own."""
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    wrong, absent = [], []
    for name, tensor in wanted.items():
        expected = tuple(tensor.shape)
        if name in shapes and shapes[name] != expected:
            wrong.append(f"{name} of shape {shapes[name]}, {architecture} expects {expected}")
        # Files from before torch counted batches lack the counters; nothing here reads them.
        elif name not in shapes and not name.endswith("num_batches_tracked"):
            absent.append(f"no {name}, {architecture} expects one of shape {expected}")
    strange = [
        f"{name} of shape {shapes[name]}, which {architecture} does not have"
        for name in shapes
        if name not in wanted and not name.startswith((*AUXILIARY, container))
    ]
    return wrong + absent + strange


def _fit_positions(given: Weights, wanted: Weights, network: Network) -> Weights:
    """A vision transformer knows places in the picture by heart: for another size they are interpolated."""
    name = "encoder.pos_embedding"
    if name not in wanted or name not in given or given[name].shape == wanted[name].shape:
        return given
    image_size, patch_size = int(network.body.image_size), int(network.body.patch_size)  # type: ignore[arg-type]
    try:
        fitted: Weights = models.vision_transformer.interpolate_embeddings(image_size, patch_size, dict(given))
    except ValueError:  # not of a square picture, or of another width: reported with the shapes
        return given
    logger.info("weights: positions are interpolated to pictures of %d px", image_size)
    return fitted
