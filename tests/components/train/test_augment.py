import numpy as np
import pytest
import torch

from components.train.augment import Augmentation, Mixing, Policy
from components.train.changes import CHANGES

SIZE, LARGER = 28, 32


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, LARGER, LARGER, 3), dtype=np.uint8))


@pytest.mark.parametrize("policy", ["basic", "randaugment"])
def test_an_image_looks_the_same_in_an_epoch_whatever_the_batch_it_is_in(pixels: torch.Tensor, policy: Policy) -> None:
    augmentation = Augmentation(policy, seed=3, size=SIZE)
    together = augmentation(pixels, np.arange(6), epoch=2)
    assert together.shape == (6, SIZE, SIZE, 3)
    assert together.dtype == torch.uint8
    order = np.array([4, 0, 5])
    assert torch.equal(augmentation(pixels[order], order, epoch=2), together[order])


@pytest.mark.parametrize("policy", ["basic", "randaugment"])
def test_an_image_looks_different_in_another_epoch_at_another_index_and_by_another_seed(
    pixels: torch.Tensor, policy: Policy
) -> None:
    same = pixels[:1].repeat(2, 1, 1, 1)
    first = Augmentation(policy, seed=3, size=SIZE)(same, np.array([0, 1]), epoch=1)
    other_epoch = Augmentation(policy, seed=3, size=SIZE)(same, np.array([0, 1]), epoch=2)
    other_seed = Augmentation(policy, seed=4, size=SIZE)(same, np.array([0, 1]), epoch=1)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, other_epoch)
    assert not torch.equal(first, other_seed)


def test_crops_show_parts_of_the_image_as_often_mirrored_as_not() -> None:
    # a ramp from left to right: a crop shows part of it, and falls from left to right when it is mirrored
    ramp = torch.linspace(0, 255, LARGER).to(torch.uint8).view(1, 1, LARGER, 1).expand(400, LARGER, LARGER, 3)
    crops = Augmentation("basic", seed=0, size=SIZE)(ramp, np.arange(400), epoch=1)[..., 0].float()
    slopes = crops[:, :, -4:].mean((1, 2)) - crops[:, :, :4].mean((1, 2))
    assert 0.4 < (slopes > 0).float().mean() < 0.6
    assert slopes.abs().min() > 60  # at least a third of the ramp


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("strength", [-1.0, 0.3, 1.0])
def test_every_change_leaves_an_image(pixels: torch.Tensor, name: str, strength: float) -> None:
    changed = CHANGES[name](pixels[0].permute(2, 0, 1), strength)
    assert changed.shape == (3, LARGER, LARGER)
    assert changed.dtype == torch.uint8


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixing_mixes_targets_as_it_mixes_images(mixup: float, cutmix: float) -> None:
    inputs = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 16, 16, 3).clone()  # each image is its own index
    targets = torch.eye(4)
    for batch in range(1, 20):
        mixed, shares = Mixing(mixup, cutmix, seed=0)(inputs, targets, 1, batch)
        assert torch.allclose(shares.sum(1), torch.ones(4))
        assert torch.allclose(mixed.mean((1, 2, 3)), shares @ torch.arange(4.0), atol=1e-4)


def test_mixing_depends_on_seed_epoch_and_batch_alone() -> None:
    inputs, targets = torch.rand(4, 8, 8, 3), torch.eye(4)
    mixing = Mixing(0.4, 0.0, seed=0)
    assert torch.equal(mixing(inputs, targets, 1, 1)[0], mixing(inputs, targets, 1, 1)[0])
    assert not torch.equal(mixing(inputs, targets, 1, 1)[0], mixing(inputs, targets, 1, 2)[0])
