"""Bytes to pixels: the traps of real image folders, and agreement with torchvision's transforms."""

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision import transforms

from serving.bundle import InputSpec
from serving.errors import InvalidInput
from serving.machine import Budget
from serving.preprocess import DECODINGS, FORMATS, MAX_PIXELS, decode, preprocess, resize_and_crop
from tests.support import images

HALF = (0.5, 0.5, 0.5)
SIZES = [(60, 80), (80, 60), (61, 61), (333, 500), (37, 401), (28, 28), (29, 28), (20, 24), (5, 7), (1000, 17)]


def spec(height: int = 24, width: int = 20, resize_size: int = 28) -> InputSpec:
    return InputSpec(height=height, width=width, resize_size=resize_size, mean=HALF, std=HALF)


def torchvisions(image: Image.Image, wanted: InputSpec) -> NDArray[np.uint8]:
    """What torchvision's transforms make of it."""
    crop = transforms.CenterCrop((wanted.height, wanted.width))
    return np.asarray(crop(transforms.Resize(wanted.resize_size)(image)))


def reference(data: bytes, wanted: InputSpec) -> NDArray[np.uint8]:
    """What Pillow and torchvision's transforms make of a JPEG."""
    return torchvisions(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"), wanted)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("wanted", [spec(), spec(27, 27, 33), spec(224, 224, 256)], ids=["24x20", "27x27", "224x224"])
def test_pixels_are_those_of_torchvisions_resize_and_center_crop(height: int, width: int, wanted: InputSpec) -> None:
    image = Image.fromarray(images.noise(height, width, seed=height))
    atol = 1 if min(height, width) > wanted.resize_size else 0
    np.testing.assert_allclose(resize_and_crop(image, wanted), torchvisions(image, wanted), atol=atol, rtol=0)


def test_hundreds_of_sizes_and_crops_are_those_of_torchvision() -> None:
    """Noise, pixel by pixel: the picture in which the most values lie on the edge of being rounded the other way."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        size = int(generator.integers(8, 120))
        cut_height, cut_width = (int(side) for side in generator.integers(1, size + 1, 2))
        wanted = spec(cut_height, cut_width, size)
        height, width = (int(side) for side in generator.integers(4, 400, 2))
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        np.testing.assert_allclose(resize_and_crop(image, wanted), torchvisions(image, wanted), atol=1, rtol=0)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(375, 500), (501, 373), (61, 1024), (9, 7), (1, 1)])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"restart_marker_rows": 1}, {"icc_profile": b"icc" * 99}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_jpegs_of_every_make_become_the_pixels_of_pillow_and_torchvision(
    subsampling: str, size: tuple[int, int], options: dict[str, Any]
) -> None:
    data = images.encode(images.noise(*size), subsampling=subsampling, **options)
    np.testing.assert_allclose(preprocess(data, spec()), reference(data, spec()), atol=1, rtol=0)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_grey_and_cmyk_jpegs_become_the_pixels_of_pillow_and_torchvision(mode: str, progressive: bool) -> None:
    image = Image.fromarray(images.noise(233, 341)).convert(mode)
    data = images.encode(image, progressive=progressive)
    np.testing.assert_allclose(preprocess(data, spec()), reference(data, spec()), atol=1, rtol=0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_jpegs_become_the_pixels_of_pillow_and_torchvision(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = images.encode(images.noise(233, 342), exif=exif)
    np.testing.assert_allclose(preprocess(data, spec()), reference(data, spec()), atol=1, rtol=0)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_at_any_place_is_refused(progressive: bool) -> None:
    """Up to its last block: after that nothing but the end marker is missing, which every decoder supplies."""
    data = images.encode(images.noise(40, 56), progressive=progressive)
    for length in range(len(data) - 4):
        for decoding in DECODINGS:
            with pytest.raises(InvalidInput, match=r"damaged|not a picture|empty"):
                preprocess(data[:length], spec(), decoding)


@pytest.mark.parametrize(
    ("size", "decoded"), [((3000, 2250), (375, 282)), ((448, 999), (224, 500)), ((447, 999), (447, 999))]
)
def test_reduced_a_jpeg_is_decoded_to_the_smallest_scale_that_is_large_enough(
    size: tuple[int, int], decoded: tuple[int, int]
) -> None:
    data = images.encode(Image.new("RGB", size))
    assert decode(data, 224).size == decoded
    assert decode(data).size == size


def test_reduced_a_jpeg_looks_nearly_as_it_does_exactly() -> None:
    """Turned as well: the note of the camera counts for the reduced picture too."""
    smooth = Image.fromarray(images.noise(12, 20)).resize((500, 300), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = images.encode(smooth, exif=exif)
    exact, reduced = (preprocess(data, spec(), decoding).astype(int) for decoding in DECODINGS)
    assert np.abs(exact - reduced).mean() < 3
    assert not np.array_equal(exact, reduced)


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "JPEG"])
def test_other_formats_are_never_reduced(form: str) -> None:
    data = images.encode(images.noise(300, 400), form)
    exact, reduced = (preprocess(data, spec(), decoding) for decoding in DECODINGS)
    np.testing.assert_array_equal(exact, reduced)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """A picture stored turned or mirrored, with the note that says how, looks as the upright one."""
    upright = images.noise(40, 60)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = images.encode(np.ascontiguousarray(stored), "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(decode(data)), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_does_not_refuse_the_picture() -> None:
    data = images.encode(images.noise(8, 8), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert decode(data).size == (8, 8)


def test_transparency_is_laid_on_white() -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2] = (255, 0, 0, 128)
    rgb = np.asarray(decode(images.encode(pixels, "PNG")))
    assert rgb.shape == (4, 4, 3)
    np.testing.assert_allclose(rgb[0, 0], (255, 127, 127), atol=1)
    assert tuple(rgb[3, 3]) == (255, 255, 255)


def test_grey_with_alpha_and_a_transparent_colour_are_laid_on_white_too() -> None:
    grey = Image.fromarray(np.array([[[10, 0], [10, 255]]], np.uint8), "LA")
    assert np.asarray(decode(images.encode(grey, "PNG")))[0].tolist() == [[255] * 3, [10] * 3]
    keyed = images.encode(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8), "PNG", transparency=(1, 2, 3))
    assert np.asarray(decode(keyed))[0].tolist() == [[255] * 3, [4, 5, 6]]


def test_a_palette_becomes_its_colours_and_its_transparent_entry_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 50, 0, 0, 0])
    image.putpixel((1, 0), 1)
    assert np.asarray(decode(images.encode(image, "PNG")))[0].tolist() == [[200, 100, 50], [0, 0, 0]]
    assert np.asarray(decode(images.encode(image, "PNG", transparency=1)))[0].tolist() == [[200, 100, 50], [255] * 3]


def test_16_bits_are_scaled_and_not_clipped() -> None:
    ramp = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    rgb = np.asarray(decode(images.encode(Image.fromarray(ramp), "PNG")))
    assert rgb[0, :, 0].tolist() == [0, 1, 1, 128, 255]
    assert rgb.shape == (1, 5, 3)


def test_cmyk_becomes_rgb_of_the_same_colour() -> None:
    red = Image.new("RGB", (16, 16), (200, 30, 30))
    rgb = np.asarray(decode(images.encode(red.convert("CMYK"), "JPEG", quality=100)))
    np.testing.assert_allclose(rgb[8, 8], (200, 30, 30), atol=3)


def test_grey_becomes_three_equal_channels() -> None:
    rgb = np.asarray(decode(images.encode(images.noise(8, 8)[:, :, 0], "JPEG")))
    assert rgb.shape == (8, 8, 3)
    assert (rgb == rgb[:, :, :1]).all()


def test_bilevel_becomes_black_and_white() -> None:
    assert np.asarray(decode(images.encode(Image.new("1", (2, 2), 1), "PNG"))).tolist() == [[[255] * 3] * 2] * 2


def test_of_a_picture_with_a_second_one_inside_the_first_counts() -> None:
    """Phones write JPEGs with a depth map behind: MPO. Animations are read the same way."""
    first, second = Image.new("RGB", (32, 32), (0, 200, 0)), Image.new("RGB", (32, 32), (200, 0, 0))
    for form in ("MPO", "GIF"):
        data = images.encode(first, form, save_all=True, append_images=[second])
        np.testing.assert_allclose(np.asarray(decode(data))[16, 16], (0, 200, 0), atol=4)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_read(form: str) -> None:
    assert decode(images.encode(images.noise(16, 24), form)).size == (24, 16)


@pytest.mark.parametrize("form", FORMATS)
def test_a_picture_cut_short_is_refused_and_never_half_read(form: str) -> None:
    data = images.encode(images.noise(200, 200), form)
    with pytest.raises(InvalidInput, match=r"damaged|not a picture"):
        decode(data[: len(data) * 3 // 5])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>no", "is not a picture, expected one of JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture"),
        (b"\xff\xd8\xff\xe0", "is not a picture|damaged"),
        (images.png_bomb(9000), r"9000 x 9000 pixels, at most 64 million"),
        (images.encode(Image.new("L", (3000, 2)), "PNG"), "3000 x 2, one side may be at most 100 times the other"),
        (images.encode(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        preprocess(data, spec())
    assert "\n" not in str(caught.value)


def test_the_largest_picture_that_is_read_is_read() -> None:
    side = int(MAX_PIXELS**0.5)
    assert preprocess(images.png_bomb(side), spec()).shape == (24, 20, 3)


def test_a_picture_that_would_take_more_memory_than_there_is_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.preprocess.MEMORY", Budget(100 * 100 * 10))
    fits, webp, larger = (
        images.encode(images.noise(side, 100), form) for side, form in ((100, "PNG"), (100, "WEBP"), (101, "PNG"))
    )
    preprocess(fits, spec())
    with pytest.raises(InvalidInput, match=r"WEBP picture has 100 x 100 pixels, .* room for 0.00556 million"):
        preprocess(webp, spec())
    with pytest.raises(InvalidInput, match=r"PNG picture has 100 x 101 pixels, .* room for 0.01 million"):
        preprocess(larger, spec())


def test_what_is_no_picture_is_refused_without_loading_decoders_that_nobody_needs() -> None:
    """Pillow has sixty; loading them takes a good part of a second, and the first such request would wait for it."""
    script = """
import sys
from serving.errors import InvalidInput
from serving.preprocess import FORMATS, decode
from PIL import Image
Image.preinit()  # as the first JPEG does, which is the bundle's own
assert set(FORMATS) <= set(Image.OPEN)
before = set(sys.modules)
try: decode(b"no picture")
except InvalidInput: print(*(name for name in set(sys.modules) - before if name.startswith("PIL.")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
