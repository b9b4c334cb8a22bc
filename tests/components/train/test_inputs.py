"""What learns, and from what."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.cache import Cache
from components.data.decode import Split
from components.data.index import make_index
from components.data.splits import find_splits
from components.model import input_spec, make_network
from components.train import inputs
from components.train.inputs import Inputs
from components.train.settings import TrainSettings
from components.train.sources import AugmentedSource, FeatureSource, PixelSource, describe_loading
from components.train.world import World
from serving.bundle import Head
from serving.errors import ConfigError
from tests.support.folders import write_images

SPEC = input_spec(32)


def nothing(*_: object) -> None:
    """No progress."""


def decoded(data: Path, cache: Cache, settings: TrainSettings) -> dict[str, Split]:
    index = make_index(find_splits(data, {}), seed=0)
    return inputs.decode(index, SPEC, settings, cache, None, nothing)


def choose(data: Path, cache: Cache, **given: Any) -> Inputs:
    settings = TrainSettings(feature_engine="torch", image_size=32, **given)
    network = make_network("resnet18", Head(kind="linear"), "abc", SPEC, weights="none", freeze=settings.freeze)
    looked_at = {name: split for name, split in decoded(data, cache, settings).items() if name != "test"}
    return inputs.choose(network, SPEC, looked_at, settings, cache, World(), nothing)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), per_class=2, size=(40, 40))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


def test_a_frozen_backbone_is_asked_once_and_its_head_learns(data: Path, cache: Cache) -> None:
    chosen = choose(data, cache)
    assert isinstance(chosen.train, FeatureSource)
    assert len(chosen.train.views) == 1
    assert chosen.are_features
    assert chosen.train.batch(np.arange(2), 1).shape == (2, 512)
    assert describe_loading(chosen.train, World().device) == "loader: none, since features are in memory"


def test_a_frozen_backbone_that_augments_is_asked_about_a_few_views_that_take_turns(data: Path, cache: Cache) -> None:
    chosen = choose(data, cache, augment="basic", views=3)
    assert isinstance(chosen.train, FeatureSource)
    assert isinstance(chosen.valid, FeatureSource)
    assert (len(chosen.train.views), len(chosen.valid.views)) == (3, 1)
    first, second, third, fourth = (chosen.train.batch(np.arange(6), epoch) for epoch in (1, 2, 3, 4))
    assert not np.allclose(first, second)
    assert not np.allclose(second, third)
    np.testing.assert_array_equal(first, fourth)


def test_a_backbone_that_learns_sees_pixels_changed_at_random_unless_told_otherwise(data: Path, cache: Cache) -> None:
    by_default, plain = choose(data, cache, freeze="none"), choose(data, cache, freeze="none", augment="none")
    assert isinstance(by_default.train, AugmentedSource)
    assert isinstance(plain.train, PixelSource)
    assert isinstance(by_default.valid, PixelSource)
    assert by_default.train.batch(np.arange(6), 1).shape == plain.train.batch(np.arange(6), 1).shape == (6, 32, 32, 3)
    assert "2 batches ahead: images are decoded already" in describe_loading(plain.train, World().device)


def test_cutmix_of_features_is_refused(data: Path, cache: Cache) -> None:
    with pytest.raises(ConfigError, match="--cutmix needs pixels"):
        choose(data, cache, cutmix=1.0)


def test_one_changed_pixel_of_one_image_is_decoded_and_asked_about_anew(tmp_path: Path) -> None:
    data, cache = write_images(tmp_path / "data", per_class=2, size=(32, 32)), Cache(tmp_path / "cache")
    path = data / "train" / "apple" / "0.png"
    Image.open(data / "train" / "apple" / "0.jpg").save(path)
    (data / "train" / "apple" / "0.jpg").unlink()

    def entries() -> dict[str, int]:
        kinds = [folder.name.partition("-")[0] for folder in cache.folder.iterdir() if folder.is_dir()]
        return {kind: kinds.count(kind) for kind in kinds}

    choose(data, cache)
    assert entries() == {"pixels": 3, "features": 2}
    choose(data, cache)
    assert entries() == {"pixels": 3, "features": 2}
    picture = Image.open(path)
    red, green, blue = picture.getpixel((5, 7))  # type: ignore[misc]  # of an RGB picture
    picture.putpixel((5, 7), (red ^ 1, green, blue))
    picture.save(path)
    choose(data, cache)
    assert entries() == {"pixels": 4, "features": 3}
