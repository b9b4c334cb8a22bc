"""The five known systems, each run from its preset to its bundle on a small sample of real pictures."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision import models

from components import presets
from components.config import read_settings
from components.environment import Environment
from components.model import MEAN, STD, input_spec, make_network
from components.train.run import train
from components.train.settings import TrainSettings
from serving import bundle
from serving.bundle import Bundle, Head
from serving.engines.torch_network import Network
from serving.errors import ConfigError
from tests.support.cifar import NAMES, write_batches
from tests.support.photographs import cut, halves, write_patches

SHARED: Final = Path(__file__).parents[4] / "shared" / "data"
"""Real dog photographs and CIFAR-10 images, where they are at hand."""
SIDE_PX: Final = 64
QUICK: Final = ("--lr", "0.001", "--batch-size", "32")
"""Within every system's ranges, and slow enough for the loss to fall in the dozen steps that a sample allows."""
OWN_HEADS: Final = ("fc.", "classifier.")
"""Where torchvision's networks have their classifiers."""


@dataclass(frozen=True)
class System:
    """A row of the table of known systems, worked out by hand."""

    architecture: str
    head: tuple[str, ...]
    """Its modules in order; `labels` stands for how many there are."""
    num_learning: Callable[[int], int]
    """Parameters that learn, by the number of labels."""
    lr: tuple[float, float]
    batch_sizes: tuple[int, ...]
    epochs: tuple[int, int] | None = None
    trials: int | None = None


LINEAR_2048: Final = ("Linear(in_features=2048, out_features=labels, bias=True)",)

SYSTEMS: Final = {
    "dogs-resnet50": System(
        "resnet50", LINEAR_2048, lambda labels: (2048 + 1) * labels, lr=(0.001, 0.3), batch_sizes=(16, 32, 64)
    ),
    "dogs-resnet18": System(
        "resnet18",
        (
            "Linear(in_features=512, out_features=256, bias=True)",
            "ReLU()",
            "Linear(in_features=256, out_features=labels, bias=True)",
        ),
        lambda labels: (512 + 1) * 256 + (256 + 1) * labels,
        lr=(0.001, 0.1),
        batch_sizes=(4, 8, 16, 32),
        epochs=(2, 5),
    ),
    "dogs-densenet161": System(
        "densenet161",
        (
            "Linear(in_features=2208, out_features=512, bias=True)",
            "ReLU()",
            "Dropout(p=0.3, inplace=False)",
            "Linear(in_features=512, out_features=labels, bias=True)",
        ),
        lambda labels: (2208 + 1) * 512 + (512 + 1) * labels,
        lr=(0.001, 0.1),
        batch_sizes=(32, 64, 128),
        epochs=(5, 20),
    ),
    "dogs-resnet50-short": System(
        "resnet50",
        LINEAR_2048,
        lambda labels: (2048 + 1) * labels,
        lr=(0.001, 0.01),
        batch_sizes=(16, 32, 48),
        trials=8,
    ),
    "cifar10-resnet18": System(
        "resnet18",
        ("Linear(in_features=512, out_features=labels, bias=True)",),
        lambda labels: (512 + 1) * labels,
        lr=(0.001, 0.1),
        batch_sizes=(32, 64, 128, 256, 512),
        epochs=(2, 4),
    ),
}


def read(*arguments: str) -> TrainSettings:
    return read_settings(TrainSettings, arguments, Environment(), prog="train", description="", environ={})


def test_the_known_systems_are_the_presets() -> None:
    assert presets.names() == sorted(SYSTEMS)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_preset_searches_the_ranges_of_its_system(name: str) -> None:
    preset, system = presets.read(name), SYSTEMS[name]
    space: dict[str, dict[str, Any]] = {
        "lr": {"type": "continuous", "min": system.lr[0], "max": system.lr[1], "scale": "log"},
        "batch-size": {"type": "categorical", "values": list(system.batch_sizes)},
    }
    if system.epochs:
        space["epochs"] = {"type": "integer", "min": system.epochs[0], "max": system.epochs[1]}
    assert preset.space == space
    assert preset.trials == system.trials
    assert preset.rules


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_settings_of_a_preset_lie_within_its_ranges(name: str) -> None:
    settings, system = read("--preset", name), SYSTEMS[name]
    assert system.lr[0] <= settings.lr <= system.lr[1]
    assert settings.batch_size in system.batch_sizes
    assert system.epochs is None or system.epochs[0] <= settings.epochs <= system.epochs[1]
    assert settings.class_order == "imagefolder"


def test_any_flag_overrides_a_preset() -> None:
    settings = read("--preset", "dogs-densenet161", "--dropout", "0.1", "--batch-size", "32")
    assert (settings.arch, settings.hidden, settings.dropout, settings.batch_size) == ("densenet161", 512, 0.1, 32)


def test_a_preset_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match='preset "cats" does not exist, expected one of cifar10-resnet18, dogs-dense'):
        read("--preset", "cats")


@pytest.mark.parametrize(
    ("name", "num_labels", "num_learning"),
    [
        ("dogs-resnet50", 133, 272_517),
        ("dogs-resnet18", 133, 165_509),
        ("dogs-densenet161", 133, 1_199_237),
        ("dogs-resnet50-short", 133, 272_517),
        ("cifar10-resnet18", 10, 5_130),
    ],
)
def test_with_all_its_labels_a_system_learns_so_many_parameters(name: str, num_labels: int, num_learning: int) -> None:
    settings = read("--preset", name)
    head = Head(kind=settings.head, hidden=settings.hidden, dropout=settings.dropout)
    labels = [str(label) for label in range(num_labels)]
    network = make_network(settings.arch, head, labels, input_spec(SIDE_PX), weights="none", freeze=settings.freeze)
    assert sum(tensor.numel() for tensor in network.parameters() if tensor.requires_grad) == num_learning


def write_photographs(folder: Path) -> Path:
    return write_patches(folder, halves())


def write_dogs(folder: Path) -> Path:
    breeds: dict[str, list[Any]] = {}
    for path in sorted((SHARED / "dogs").glob("*.jpg")):
        with Image.open(path) as image:
            breeds.setdefault(path.stem.rpartition("_")[0], []).append(np.asarray(image.convert("RGB")))
    return write_patches(folder, breeds)


def write_digits(folder: Path) -> Path:
    digits = load_digits()
    chosen = slice(0, 360)
    grey = (digits.images[chosen] * 255 / 16).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    images = np.repeat(grey[..., None], 3, axis=3)
    return write_batches(folder, images, [int(digit) for digit in digits.target[chosen]], num_test=60)


def write_cifar(folder: Path) -> Path:
    paths = [
        (label, path)
        for split, count in (("train", 30), ("test", 6))
        for label, name in enumerate(NAMES)
        for path in sorted((SHARED / "cifar10" / split / name).glob("*.jpg"))[:count]
    ]
    # In the original, labels are mixed within a batch.
    order = [*np.random.default_rng(0).permutation(300), *range(300, 360)]
    images = np.stack([np.asarray(Image.open(paths[place][1]).convert("RGB")) for place in order])
    return write_batches(folder, images, [paths[place][0] for place in order], num_test=60)


SAMPLES: Final = {"photographs": write_photographs, "digits": write_digits, "dogs": write_dogs, "cifar10": write_cifar}


def runs() -> list[Any]:
    """Every system on a sample that is always there; on one of its own images too where those are."""
    always = [(name, "digits" if name.startswith("cifar10") else "photographs") for name in SYSTEMS]
    own = [(name, name.partition("-")[0]) for name in SYSTEMS]
    slow = {run: [pytest.mark.slow] for run in always if "densenet" in run[0]}  # to trace it takes half a minute
    return [pytest.param(run, id="-on-".join(run), marks=slow.get(run, [])) for run in always] + [
        pytest.param((name, sample), id=f"{name}-on-{sample}", marks=pytest.mark.slow)
        for name, sample in own
        if (SHARED / sample).is_dir()
    ]


@dataclass(frozen=True)
class Reproduced:
    """A run that is over."""

    system: System
    settings: TrainSettings
    backbone: dict[str, Tensor]
    """The weights that it was given."""
    learnt: dict[str, Tensor]
    """The weights of the bundle, by torchvision's names."""
    bundle: Bundle
    history: list[dict[str, float]]

    @property
    def head(self) -> nn.Module:
        """Of the network that the bundle describes."""
        manifest = self.bundle.manifest
        return Network(manifest.architecture, manifest.head, len(manifest.labels), manifest.input).head


def write_weights(path: Path, architecture: str) -> None:
    """Random weights of torchvision's own network, its batch statistics settled on patches of photographs.

    With those of a newborn, features of a deep frozen backbone are huge and all but the same for every picture.
    """
    torch.manual_seed(0)
    network = models.get_model(architecture, weights=None)
    patches = np.stack([patch for (half,) in halves().values() for patch in cut(half)])
    pixels = torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all that it has seen
    with torch.inference_mode():
        network.train()((pixels - mean) / std)
    save_file(network.state_dict(), path)


@pytest.fixture(scope="module", params=runs())
def reproduced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reproduced:
    name, sample = request.param
    system, folder = SYSTEMS[name], tmp_path_factory.getbasetemp() / "presets"
    folder.mkdir(exist_ok=True)
    weights, data, made = folder / f"{system.architecture}.safetensors", folder / sample, folder / f"{name}-on-{sample}"
    if not weights.exists():
        write_weights(weights, system.architecture)
    if not data.exists():
        SAMPLES[sample](data)
    flags = ["--preset", name, "--weights", str(weights), "--image-size", str(SIDE_PX), "--data", str(data), *QUICK]
    settings = read_settings(
        TrainSettings, [*flags, "--model-dir", str(made)], Environment(), prog="train", description=""
    )
    finished = train(settings, Environment())
    assert finished is not None
    with made.with_name(f"{made.name}.output").joinpath("metrics.jsonl").open() as file:
        history = [json.loads(line) for line in file]
    state = load_file(finished.file(bundle.WEIGHTS))
    learnt = {name.removeprefix("body."): tensor for name, tensor in state.items()}
    return Reproduced(system, settings, load_file(weights), learnt, finished, history)


def test_the_backbone_is_torchvisions_and_stays_as_it_was_given(reproduced: Reproduced) -> None:
    """Batch statistics too: a frozen backbone is in evaluation mode."""
    assert reproduced.bundle.manifest.architecture == reproduced.system.architecture
    given = {name for name in reproduced.backbone if not name.startswith(OWN_HEADS)}
    assert {name for name in reproduced.learnt if not name.startswith(OWN_HEADS)} == given
    assert [name for name in given if not torch.equal(reproduced.learnt[name], reproduced.backbone[name])] == []


def test_the_head_has_the_modules_of_the_system_and_as_many_parameters(reproduced: Reproduced) -> None:
    labels = len(reproduced.bundle.manifest.labels)
    modules = reproduced.head if isinstance(reproduced.head, nn.Sequential) else [reproduced.head]
    expected = [text.replace("=labels", f"={labels}") for text in reproduced.system.head]
    assert [repr(module) for module in modules] == expected
    learning = [tensor for name, tensor in reproduced.learnt.items() if name.startswith(OWN_HEADS)]
    assert sum(tensor.numel() for tensor in learning) == reproduced.system.num_learning(labels)


def test_the_loss_falls(reproduced: Reproduced) -> None:
    assert len(reproduced.history) == reproduced.settings.epochs
    assert reproduced.history[-1]["train_loss"] < reproduced.history[0]["train_loss"]


def test_labels_are_in_the_order_of_imagefolder(reproduced: Reproduced) -> None:
    manifest = reproduced.bundle.manifest
    assert list(manifest.labels) == sorted(manifest.labels)
    assert manifest.hyperparameters["class_order"] == "imagefolder"
