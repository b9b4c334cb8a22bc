"""JPEGs decoded, resized and cropped by torch, on a GPU by nvJPEG: a few steps of 255 off `serving.preprocess`.

Nobody gets it who does not ask for it: training saw the other pixels. What nvJPEG does not read, or reads another way,
is left to `serving.preprocess`, which also words every refusal.
"""

import io
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from torch.nn import functional

from serving.bundle import InputSpec
from serving.engines.torch_vision import io as torchvision_io
from serving.errors import ConfigError
from serving.preprocess import Pixels, check_size, preprocess

END_OF_IMAGE: Final = b"\xff\xd9"
RGB_COMPONENTS: Final = (*b"RGB",)
"""Identifiers by which a JPEG without further notes says that it holds no YCbCr (libjpeg's rule)."""


class JpegDecoder:
    """Turns JPEGs into pixels on a device.

    Raises:
        ConfigError: Nothing decodes JPEGs there.
    """

    def __init__(self, device: Literal["cpu", "cuda"] = "cuda") -> None:
        if device == "cuda" and not torch.cuda.is_available():  # asking would print pages of CUDA's own
            raise ConfigError(
                "JPEGs are decoded by nvJPEG on a GPU alone, and torch finds none: leave --decode as it is"
            )
        self._device = torch.device(device)
        probe = io.BytesIO()
        Image.new("RGB", (16, 16)).save(probe, "JPEG")
        try:
            self._decode([probe.getvalue()])
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"JPEGs cannot be decoded on the {device} device here: {reason}") from error

    def preprocess(self, data: bytes, spec: InputSpec) -> Pixels:
        """As `serving.preprocess.preprocess`."""
        return self.preprocess_all([data], spec)[0]

    def preprocess_all(self, pictures: Sequence[bytes], spec: InputSpec) -> list[Pixels]:
        """The same for several at once, which keeps a GPU's decoder busy.

        Args:
            pictures: Of any format.
            spec: The bundle's.

        Returns:
            Of each, in order, (spec.height, spec.width, 3).

        Raises:
            InvalidInput: One of them is no picture; as for `serving.preprocess.preprocess`.
        """
        orientations = [_orientation(data) for data in pictures]
        places = [place for place, orientation in enumerate(orientations) if orientation is not None]
        decoded = dict(zip(places, self._decode_those_it_can([pictures[place] for place in places]), strict=True))
        made: list[Pixels] = []
        for place, data in enumerate(pictures):
            pixels = _finish(decoded.get(place), orientations[place], spec)
            made.append(preprocess(data, spec) if pixels is None else pixels)
        return made

    def _decode_those_it_can(self, pictures: Sequence[bytes]) -> list[Tensor | None]:
        if not pictures:
            return []
        try:
            return [*self._decode(pictures)]
        except RuntimeError:  # says neither which nor keeps the others
            return [self._decode_those_it_can([data])[0] for data in pictures] if len(pictures) > 1 else [None]

    def _decode(self, pictures: Sequence[bytes]) -> list[Tensor]:
        """Of each (3, H, W), on the device."""
        encoded = [torch.from_numpy(np.frombuffer(data, np.uint8).copy()) for data in pictures]
        tensors: list[Tensor] = torchvision_io.decode_jpeg(
            encoded, mode=torchvision_io.ImageReadMode.RGB, device=self._device
        )
        return tensors


def _orientation(data: bytes) -> int | None:
    """EXIF orientation, 1 to 8, of a JPEG that nvJPEG reads as libjpeg does; None: it may not."""
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        check_size(*image.size)
    except Exception:  # whatever it is, the reference says so
        return None
    is_whole = data.rstrip(b"\0").endswith(END_OF_IMAGE)
    if image.format != "JPEG" or not isinstance(image, JpegImageFile) or image.mode not in {"RGB", "L"} or not is_whole:
        return None
    is_rgb = image.info.get("adobe_transform") == 0 or tuple(layer[0] for layer in image.layer) == RGB_COMPONENTS
    if image.mode == "RGB" and is_rgb:
        return None
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as in the reference: a broken block turns no picture
        return 1
    return orientation if orientation in range(1, 9) else 1


def _finish(image: Tensor | None, orientation: int | None, spec: InputSpec) -> Pixels | None:
    if image is None or orientation is None:
        return None
    try:
        with torch.inference_mode():
            return resize_and_crop(_upright(image, orientation), spec)
    except RuntimeError:  # a large picture may be too much for the GPU's memory
        return None


def _upright(image: Tensor, orientation: int) -> Tensor:
    """(3, H, W) as a person would see it. Source: CIPA DC-008 (Exif), tag 0x0112."""
    if orientation in {5, 6, 7, 8}:
        image = image.transpose(-2, -1)
    axes = {2: [-1], 3: [-2, -1], 4: [-2], 6: [-1], 7: [-2, -1], 8: [-2]}.get(orientation)
    return image.flip(axes) if axes else image


def resize_and_crop(image: Tensor, spec: InputSpec) -> Pixels:
    """`serving.preprocess.resize_and_crop` of (3, H, W) on any device: sizes and edges are rounded alike."""
    height, width = image.shape[1:]
    short, long = sorted((height, width))
    scaled = int(spec.resize_size * long / short)
    size = (scaled, spec.resize_size) if width <= height else (spec.resize_size, scaled)
    if size != (height, width):
        floats = functional.interpolate(image[None].float(), size, mode="bilinear", antialias=True)
        image = floats[0].round().clamp(0, 255).to(torch.uint8)
    top, left = round((size[0] - spec.height) / 2), round((size[1] - spec.width) / 2)
    cropped = image[:, top : top + spec.height, left : left + spec.width]
    pixels: Pixels = cropped.permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels
