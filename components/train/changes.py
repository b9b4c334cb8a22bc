"""What randaugment does to an image: the operations of Cubuk et al. 2020, each by its strength.

torchvision.transforms.v2 brings torch's compiler along, so this is imported where it is used.
"""

from collections.abc import Callable
from typing import Final

from torch import Tensor
from torchvision.transforms.v2 import functional

Change = Callable[[Tensor, float], Tensor]
_AFFINE: Final = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}

# Strength runs from -1 to 1; the ranges are those of table 6, as torchvision has them.
CHANGES: Final[dict[str, Change]] = {
    "rotate": lambda image, strength: functional.affine(image, **_AFFINE | {"angle": 30 * strength}),
    "shear_x": lambda image, strength: functional.affine(image, **_AFFINE | {"shear": [17.0 * strength, 0.0]}),
    "shear_y": lambda image, strength: functional.affine(image, **_AFFINE | {"shear": [0.0, 17.0 * strength]}),
    "translate_x": lambda image, strength: functional.affine(
        image, **_AFFINE | {"translate": _shift(image, strength, 1)}
    ),
    "translate_y": lambda image, strength: functional.affine(
        image, **_AFFINE | {"translate": _shift(image, strength, 0)}
    ),
    "brightness": lambda image, strength: functional.adjust_brightness(image, 1 + 0.9 * strength),
    "contrast": lambda image, strength: functional.adjust_contrast(image, 1 + 0.9 * strength),
    "color": lambda image, strength: functional.adjust_saturation(image, 1 + 0.9 * strength),
    "sharpness": lambda image, strength: functional.adjust_sharpness(image, 1 + 0.9 * strength),
    "posterize": lambda image, strength: functional.posterize(image, 8 - round(4 * abs(strength))),
    "solarize": lambda image, strength: functional.solarize(image, 255 * (1 - abs(strength))),
    "equalize": lambda image, _: functional.equalize(image),
    "autocontrast": lambda image, _: functional.autocontrast(image),
}


def _shift(image: Tensor, strength: float, axis: int) -> list[int]:
    pixels = round(image.shape[1 + axis] * 0.45 * strength)
    return [pixels, 0] if axis == 1 else [0, pixels]
