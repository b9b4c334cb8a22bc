"""Random changes to images, each drawn from (seed, epoch, index of the image) and from nothing else.

A worker's state never enters, so an image looks the same in an epoch whoever prepares it, in whatever order, before or
after a restart.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Policy = Literal["none", "basic", "randaugment"]

CACHED_SCALE: Final = 8 / 7
"""Images to be cropped are kept this much larger than what the network sees: 256 px for 224."""
AREA: Final = (0.35, 1.0)
"""Share of an image that a crop may cover. ImageNet's 0.08 is for learning from nothing; here details carry labels."""
ASPECT: Final = (3 / 4, 4 / 3)
NUM_OPERATIONS: Final = 2
MAGNITUDE: Final = 0.3
"""RandAugment: operations an image, and their strength as a share of the strongest (Cubuk et al. 2020: 2, 9 of 30)."""


@dataclass(frozen=True)
class Augmentation:
    """What is done to a batch of training images."""

    policy: Policy
    seed: int
    size: int
    """Side of the square that the network sees, in px."""

    def __call__(self, pixels: Tensor, indices: NDArray[np.int64], epoch: int) -> Tensor:
        """Crop, flip and, with randaugment, change more.

        Args:
            pixels: uint8 (N, H, W, 3), larger than `size`.
            indices: (N,), of the images in their split.
            epoch: From 1.

        Returns:
            uint8 (N, size, size, 3).
        """
        if self.policy == "randaugment":
            pixels = torch.stack(
                [self._change(image, int(index), epoch) for image, index in zip(pixels, indices, strict=True)]
            )
        maps = torch.stack([self._crop(int(index), epoch) for index in indices])
        grid = torch.nn.functional.affine_grid(maps, [len(pixels), 3, self.size, self.size], align_corners=False)
        cropped = torch.nn.functional.grid_sample(
            pixels.permute(0, 3, 1, 2).float(), grid.to(pixels.device), padding_mode="reflection", align_corners=False
        )
        return cropped.round_().to(torch.uint8).permute(0, 2, 3, 1)

    def _crop(self, index: int, epoch: int) -> Tensor:
        """A random-resized crop and a random flip as an affine map (2, 3); Szegedy et al. 2015, section 6."""
        generator = self._generator(index, epoch, purpose=0)
        area = generator.uniform(*AREA)
        aspect = math.exp(generator.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        width, height = min(1.0, math.sqrt(area * aspect)), min(1.0, math.sqrt(area / aspect))
        left, top = generator.uniform(-1 + width, 1 - width), generator.uniform(-1 + height, 1 - height)
        flip = -1.0 if generator.random() < 0.5 else 1.0
        return torch.tensor([[flip * width, 0.0, left], [0.0, height, top]])

    def _change(self, image: Tensor, index: int, epoch: int) -> Tensor:
        from components.train.changes import CHANGES  # seconds, and no other policy needs it

        generator = self._generator(index, epoch, purpose=1)
        changed = image.permute(2, 0, 1)
        for name in generator.choice(list(CHANGES), NUM_OPERATIONS):
            changed = CHANGES[name](changed, MAGNITUDE * generator.choice((-1, 1)))
        return changed.permute(1, 2, 0)

    def _generator(self, index: int, epoch: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, index, purpose))


@dataclass(frozen=True)
class Mixing:
    """Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) of a batch; with both, each batch draws one."""

    mixup: float
    cutmix: float
    seed: int

    def __call__(self, inputs: Tensor, targets: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        """Mix each sample with another of its batch.

        Args:
            inputs: (N, H, W, 3).
            targets: (N, K), probabilities.
            epoch: From 1.
            batch: From 1.
        """
        generator = np.random.default_rng((self.seed, epoch, batch, 2))
        others = torch.from_numpy(generator.permutation(len(inputs))).to(inputs.device)
        use_cutmix = self.cutmix > 0 and (self.mixup == 0 or generator.random() < 0.5)
        alpha = self.cutmix if use_cutmix else self.mixup
        share = float(generator.beta(alpha, alpha))
        inputs = inputs.float()
        if use_cutmix:
            inputs, share = _paste(inputs, inputs[others], share, generator)
        else:
            inputs = share * inputs + (1 - share) * inputs[others]
        return inputs, share * targets + (1 - share) * targets[others]


def _paste(inputs: Tensor, others: Tensor, share: float, generator: np.random.Generator) -> tuple[Tensor, float]:
    height, width = inputs.shape[1:3]
    side = math.sqrt(1 - share)
    center_y, center_x = generator.integers(height), generator.integers(width)
    top, bottom = (int(np.clip(center_y + sign * side * height / 2, 0, height)) for sign in (-1, 1))
    left, right = (int(np.clip(center_x + sign * side * width / 2, 0, width)) for sign in (-1, 1))
    pasted = inputs.clone()
    pasted[:, top:bottom, left:right] = others[:, top:bottom, left:right]
    return pasted, 1 - (bottom - top) * (right - left) / (height * width)
