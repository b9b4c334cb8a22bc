"""Bytes of a picture to the pixels that a network sees. The only implementation: training's evaluation calls it too."""

import io
from collections.abc import Callable
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from serving.bundle import InputSpec
from serving.errors import InvalidInput
from serving.formats import refusal
from serving.machine import Budget, memory_bytes

Pixels = NDArray[np.uint8]
"""(H, W, 3) or (N, H, W, 3), RGB, 0..255."""

Preprocess = Callable[[bytes, InputSpec], Pixels]
"""`preprocess`, or what stands in for it where an operator asks."""
Decoding = Literal["exact", "reduced"]
"""All of a picture's pixels, or of a large JPEG those that its decoder can make at half, a quarter or an eighth."""
DECODINGS: Final[tuple[Decoding, ...]] = get_args(Decoding)

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
DECODERS: Final = (
    JpegImagePlugin, PngImagePlugin, WebPImagePlugin, BmpImagePlugin, GifImagePlugin, TiffImagePlugin,
)  # fmt: skip
"""Of these formats. Where one is not loaded yet, Pillow loads all sixty it has, and the first caller waits for it."""
MAX_PIXELS: Final = 64_000_000  # the largest phone cameras make 50 million; decoded, this is 192 MB
BYTES_A_PIXEL: Final = {"WEBP": 18}
"""What decoding takes at its worst, with what is made on the way to RGB; of the others `MOST_BYTES_A_PIXEL`."""
MOST_BYTES_A_PIXEL: Final = 10
MEMORY: Final = Budget(memory_bytes() // 4)
"""For pictures while they are decoded; the rest is for the model, for bodies and for pictures that wait."""
MAX_ASPECT_RATIO: Final = 100  # a strip 1 px high would be blown up to gigapixels before the crop
MAX_PICTURES: Final = 256
"""In one body: what 25 MB of thumbnails are, and what a batch transform's record may be."""
BACKGROUND: Final = (255, 255, 255)
BAND_ROWS: Final = 256
TO_8_BITS: Final = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)
"""Of each grey value of 16 bits."""
REDUCED_SIDE: Final = 2
"""A reduced picture's shorter side, at least, in multiples of what it is resized to: 1 is a tenth faster and leaves the
resizing too little to average (`make bench-decode` shows both)."""
FILTER: Final = Image.Resampling.BILINEAR
MIN_REDUCTION: Final = 1.25
"""From this one on only the crop is computed. Pillow holds its box in 32-bit floats, which now and then rounds a value
the other way: one of many that are averaged when an image shrinks, too many where two become one."""

# Pillow's own limit warns through a global filter and refuses at twice its value; MAX_PIXELS is checked here instead.
Image.MAX_IMAGE_PIXELS = None


def preprocess(data: bytes, spec: InputSpec, decoding: Decoding = "exact") -> Pixels:
    """Turn an encoded picture into the network's input.

    Evaluation, golden checks and the server all call this; a second version would drift.

    Args:
        data: A picture in one of `FORMATS`; of an animation the first frame counts.
        spec: The bundle's.
        decoding: `reduced` decodes large JPEGs in less than half the time, to other pixels than training saw.

    Returns:
        (spec.height, spec.width, 3), RGB, 0..255.

    Raises:
        InvalidInput: Not a picture, cut short, over `MAX_PIXELS`, or longer than `MAX_ASPECT_RATIO` times its width.
    """
    shorter_side = REDUCED_SIDE * spec.resize_size if decoding == "reduced" else None
    return resize_and_crop(decode(data, shorter_side), spec)


def decode(data: bytes, shorter_side: int | None = None) -> Image.Image:
    """Decode a picture to 8-bit RGB as a person would see it.

    EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled (not clipped).

    Args:
        data: As for `preprocess`.
        shorter_side: In px; a JPEG may be decoded to a half, a quarter or an eighth, but to no less than this.

    Raises:
        InvalidInput: As for `preprocess`.
    """
    if not data:
        raise InvalidInput(f"the picture is empty, expected the bytes of one of {', '.join(FORMATS)}")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # decoders raise anything at all on bytes made to confuse them
        raise InvalidInput(f"{refusal(data)}, expected one of {', '.join(FORMATS)}") from error
    check_size(*image.size)
    if shorter_side is not None:
        image.draft(None, (shorter_side, shorter_side))  # of other formats than JPEG this does nothing
    with MEMORY.take(_check_memory(image)):
        try:
            image.load()
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise InvalidInput(f"the {image.format} picture is damaged or cut short: {reason}") from error
        return _to_rgb(_upright(image))


def resize_and_crop(image: Image.Image, spec: InputSpec) -> Pixels:
    """Resize the shorter side with antialiasing, then cut the centre out.

    Sizes are rounded as in torchvision's `Resize` and `CenterCrop`, so that a model trained with those meets the same
    pixels: exactly where an image is enlarged, else but for a few that are one step of 255 off.
    Source: shorter side resized, centre cropped: Krizhevsky et al. 2012, section 2.
    """
    short, long = sorted(image.size)
    scaled = int(spec.resize_size * long / short)
    width, height = (spec.resize_size, scaled) if image.width <= image.height else (scaled, spec.resize_size)
    left, top = round((width - spec.width) / 2), round((height - spec.height) / 2)
    right, bottom = left + spec.width, top + spec.height
    if short < MIN_REDUCTION * spec.resize_size:
        resized = image if (width, height) == image.size else image.resize((width, height), FILTER)
        return np.asarray(resized.crop((left, top, right, bottom)), dtype=np.uint8)
    # What the crop drops is not computed: of a photograph, half.
    x, y = image.width / width, image.height / height
    box = (left * x, top * y, min(right * x, image.width), min(bottom * y, image.height))
    return np.asarray(image.resize((spec.width, spec.height), FILTER, box=box), dtype=np.uint8)


def check_size(width: int, height: int) -> None:
    """Refuse what would take too much memory to decode or to resize.

    Raises:
        InvalidInput: It would.
    """
    if width * height > MAX_PIXELS:
        raise InvalidInput(f"the picture has {width} x {height} pixels, at most {MAX_PIXELS // 10**6} million are read")
    if min(width, height) < 1 or max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise InvalidInput(
            f"the picture is {width} x {height}, one side may be at most {MAX_ASPECT_RATIO} times the other"
        )


def _check_memory(image: Image.Image) -> int:
    """Bytes that decoding may take; refused where this machine has not so many to spare."""
    a_pixel = BYTES_A_PIXEL.get(image.format or "", MOST_BYTES_A_PIXEL)
    needed = image.width * image.height * a_pixel
    if needed > MEMORY.num_bytes:
        raise InvalidInput(
            f"the {image.format} picture has {image.width} x {image.height} pixels, and the memory here has room for "
            f"{MEMORY.num_bytes / a_pixel / 1e6:.3g} million: send it smaller, or give the server more"
        )
    return needed


def check_count(count: int) -> None:
    """Whether so many pictures may come in one body.

    Raises:
        InvalidInput: None, or more than `MAX_PICTURES`.
    """
    if not 1 <= count <= MAX_PICTURES:
        raise InvalidInput(f"the body holds {count} pictures, expected 1 to {MAX_PICTURES}")


def _upright(image: Image.Image) -> Image.Image:
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # exif_transpose would copy it, which takes longer than resizing
        return ImageOps.exif_transpose(image)
    except Exception:  # a camera's broken EXIF block is no reason to refuse its picture
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise InvalidInput("the picture has floating-point pixels of unknown range, expected 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # 16 bits a pixel, in 16 or 32 bits of memory; convert() would clip at 255
        return _by_bands(image, _scale_grey)
    if image.has_transparency_data:
        return _by_bands(image, _lay_on_background)
    return image.convert("RGB")


def _by_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The picture as RGB, a few rows at a time: on the way the largest one would take more than a gigabyte."""
    converted = Image.new("RGB", image.size)
    for top in range(0, image.height, BAND_ROWS):
        band = image.crop((0, top, image.width, min(top + BAND_ROWS, image.height)))
        converted.paste(convert(band), (0, top))
    return converted


def _scale_grey(image: Image.Image) -> Image.Image:
    return Image.fromarray(TO_8_BITS[np.asarray(image).clip(0, 65535)]).convert("RGB")


def _lay_on_background(image: Image.Image) -> Image.Image:
    background = Image.new("RGBA", image.size, BACKGROUND)
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")
