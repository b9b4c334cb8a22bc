import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from components.cache import Cache
from components.data.decode import Split
from components.data.index import Sample
from components.model import input_spec, make_network
from components.train.augment import Augmentation
from components.train.features import BATCH, EngineName, Extractor
from components.train.world import World
from serving.bundle import Head
from serving.engines.torch_network import Network

SIZE, COUNT = 32, BATCH + 5
LABELS = ("a", "b", "c")


@pytest.fixture
def split() -> Split:
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    pixels.flags.writeable = False  # as mapped from the cache
    samples = tuple(Sample(Path(f"{place}.jpg"), f"{place}.jpg", 0) for place in range(COUNT))
    return Split(
        samples, pixels, np.zeros(COUNT, dtype=np.int64), tuple(str(place) for place in range(COUNT)), "pixels-1"
    )


@pytest.fixture(scope="module")
def network() -> Network:
    return make_network(
        "resnet18", Head(kind="mlp", hidden=8), LABELS, input_spec(SIZE), weights="none", freeze="backbone"
    )


@pytest.fixture
def make_extractor(tmp_path: Path) -> Callable[..., tuple[Extractor, list[str]]]:
    computed: list[str] = []

    def make(network: Network, engine: EngineName) -> tuple[Extractor, list[str]]:
        def progress(what: str, done: int, total: int) -> None:
            if done == total:
                computed.append(what)

        return Extractor(network, input_spec(SIZE), engine, World(), Cache(tmp_path), progress), computed

    return make


MakeExtractor = Callable[..., tuple[Extractor, list[str]]]


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_the_head_makes_of_features_what_the_network_makes_of_pixels(
    make_extractor: MakeExtractor, network: Network, split: Split, engine: EngineName
) -> None:
    extractor, _ = make_extractor(network, engine)
    features = torch.tensor(extractor.features(split, "train"))
    assert features.shape == (COUNT, 512)
    with torch.inference_mode():
        expected = network.eval()(torch.tensor(split.pixels))
        torch.testing.assert_close(network.head(features), expected, rtol=1e-4, atol=1e-5)


def test_engines_agree_within_1e_5_of_the_largest_feature(
    make_extractor: MakeExtractor, network: Network, split: Split
) -> None:
    by_onnx, by_torch = (make_extractor(network, engine)[0].features(split, "train") for engine in ("onnx", "torch"))
    assert np.abs(by_onnx - by_torch).max() <= 1e-5 * np.abs(by_torch).max()


def test_the_eager_engine_gives_the_very_bits_of_the_network_at_the_same_batch(
    make_extractor: MakeExtractor, network: Network, split: Split
) -> None:
    features = make_extractor(network, "torch")[0].features(split, "train")
    seen: list[torch.Tensor] = []
    hook = network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        for start in range(0, COUNT, BATCH):  # the last batch is filled up, as features' is
            places = np.resize(np.arange(start, min(start + BATCH, COUNT)), BATCH)
            network.eval()(torch.tensor(split.pixels[places]))
    hook.remove()
    assert torch.equal(torch.cat(seen)[:COUNT], torch.tensor(features))


def test_features_are_computed_once(make_extractor: MakeExtractor, network: Network, split: Split) -> None:
    extractor, computed = make_extractor(network, "torch")
    first = extractor.features(split, "train")
    np.testing.assert_array_equal(extractor.features(split, "train"), first)
    assert computed == ["features of train"]


def test_features_are_computed_again_for_another_backbone_image_view_or_engine(
    make_extractor: MakeExtractor, network: Network, split: Split
) -> None:
    extractor, computed = make_extractor(network, "torch")
    extractor.features(split, "1")
    other = make_network(
        "resnet18", Head(kind="linear"), LABELS, input_spec(SIZE), weights="none", freeze="backbone", seed=1
    )
    make_extractor(other, "torch")[0].features(split, "2")
    changed = Split(split.samples, split.pixels, split.targets, ("changed", *split.digests[1:]), "pixels-2")
    extractor.features(changed, "3")
    extractor.features(split, "4", Augmentation("basic", 0, SIZE), view=0)
    extractor.features(split, "5", Augmentation("basic", 0, SIZE), view=1)
    make_extractor(network, "onnx")[0].features(split, "6")
    assert computed == [f"features of {number}" for number in range(1, 7)]


def test_the_head_does_not_shape_features(make_extractor: MakeExtractor, network: Network, split: Split) -> None:
    extractor, computed = make_extractor(network, "torch")
    extractor.features(split, "train")
    with torch.no_grad():
        next(network.head.parameters()).add_(1)
    extractor.features(split, "train")
    assert len(computed) == 1


def test_a_network_with_something_behind_its_head_has_no_features(make_extractor: MakeExtractor, split: Split) -> None:
    squeezenet = make_network(
        "squeezenet1_1", Head(kind="linear"), LABELS, input_spec(SIZE), weights="none", freeze="backbone"
    )
    assert not make_extractor(squeezenet, "torch")[0].can_stand_in(split)


def test_a_network_that_ends_in_its_head_has(make_extractor: MakeExtractor, network: Network, split: Split) -> None:
    assert make_extractor(network, "torch")[0].can_stand_in(split)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_each_process_computes_its_share_once_and_every_bit_is_that_of_one_process(
    tmp_path: Path, engine: EngineName
) -> None:
    kept = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        launcher = (
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(number),
            "--log-dir",
            str(folder),
        )
        command = [sys.executable, *launcher, "-m", "tests.support.sharded_features", str(folder), engine]
        subprocess.run(command, check=True, capture_output=True)
        kept.append([path.read_bytes() for path in folder.glob("cache/*/features.npy")])
        computed = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(number)]
        # At the first start and at the second.
        assert computed == ([[5 * BATCH + 5, 0]] if number == 1 else [[3 * BATCH, 0], [2 * BATCH + 5, 0]])
    assert len(kept[0]) == 1
    assert kept[1] == kept[0]
