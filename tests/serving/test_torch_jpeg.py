"""JPEGs by torch: the reference's pixels, a few steps off, and its refusals, to the letter."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.bundle import InputSpec
from serving.engines.torch_jpeg import JpegDecoder, _orientation
from serving.errors import ConfigError, InvalidInput
from serving.preprocess import preprocess
from tests.support import forked, images

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")

HALF = (0.5, 0.5, 0.5)
STEPS = {"cpu": 3, "cuda": 8}
"""Of 255. libjpeg is the same on the CPU; nvJPEG has another inverse transform and another way to enlarge colour."""
SIZES = [(60, 80), (80, 60), (61, 61), (333, 500), (37, 401), (28, 28), (29, 28), (20, 24), (5, 7), (1000, 17)]


def spec(height: int = 24, width: int = 20, resize_size: int = 28) -> InputSpec:
    return InputSpec(height=height, width=width, resize_size=resize_size, mean=HALF, std=HALF)


def smooth(height: int, width: int, seed: int = 0) -> Image.Image:
    """A picture in which a shift by one pixel shows, and whose colours change slowly, as a photograph's do."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def decoder(device: str) -> JpegDecoder:
    return JpegDecoder("cuda" if device == "cuda" else "cpu")


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("wanted", [spec(), spec(27, 27, 33), spec(224, 224, 256)], ids=["24x20", "27x27", "224x224"])
def test_pixels_are_a_few_steps_off_the_references(
    decoder: JpegDecoder, device: str, height: int, width: int, wanted: InputSpec
) -> None:
    data = images.encode(smooth(height, width), quality=95, subsampling=0)
    made, reference = decoder.preprocess(data, wanted), preprocess(data, wanted)
    assert made.shape == reference.shape
    assert made.dtype == np.uint8
    assert np.abs(made.astype(int) - reference.astype(int)).max() <= STEPS[device]


@pytest.mark.parametrize("orientation", range(1, 10))
def test_exif_orientation_is_applied(decoder: JpegDecoder, device: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = images.encode(smooth(90, 160), quality=95, subsampling=0, exif=exif)
    made, reference = decoder.preprocess(data, spec(64, 64, 80)), preprocess(data, spec(64, 64, 80))
    assert np.abs(made.astype(int) - reference.astype(int)).max() <= STEPS[device]


def test_several_are_answered_in_order_among_them_what_it_does_not_read(decoder: JpegDecoder, device: str) -> None:
    pictures = [
        images.encode(smooth(60, 80, seed=0)),
        images.encode(smooth(60, 80, seed=1), "PNG"),
        images.encode(smooth(70, 50, seed=2).convert("CMYK"), quality=95),
        images.encode(smooth(70, 50, seed=3).convert("L"), quality=95),
        images.encode(smooth(30, 50, seed=4), keep_rgb=True),
        images.encode(smooth(30, 50, seed=5), "MPO", save_all=True, append_images=[smooth(9, 9)]),
        images.encode(smooth(90, 50, seed=6), progressive=True),
    ]
    made = decoder.preprocess_all(pictures, spec())
    exact = [preprocess(data, spec()) for data in pictures]
    for pixels, reference in zip(made, exact, strict=True):
        assert np.abs(pixels.astype(int) - reference.astype(int)).max() <= STEPS[device]
    for place in (1, 2, 4, 5):
        np.testing.assert_array_equal(made[place], exact[place])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>no",
        b"\xff\xd8\xff\xe0",
        images.jpeg()[:900],
        images.png_bomb(9000),
        images.encode(Image.new("L", (3000, 2))),
    ],
    ids=["empty", "html", "header", "cut short", "bomb", "strip"],
)
def test_what_cannot_be_read_is_refused_in_the_references_words(decoder: JpegDecoder, data: bytes) -> None:
    with pytest.raises(InvalidInput) as reference:
        preprocess(data, spec())
    with pytest.raises(InvalidInput) as refusal:
        decoder.preprocess_all([images.jpeg(), data], spec())
    assert str(refusal.value) == str(reference.value)


def test_a_jpeg_whose_data_its_decoder_refuses_is_left_to_the_reference_and_its_neighbours_are_not(
    decoder: JpegDecoder, device: str
) -> None:
    """A whole file by its first and last bytes, with nothing between its header and its end."""
    good = images.jpeg()
    start = good.index(b"\xff\xda")
    hollow = good[: start + 2] + b"\xff\xd9"
    made = decoder._decode_those_it_can([good, hollow, good])
    assert [one is None for one in made] == [False, True, False]
    with pytest.raises(InvalidInput, match=r"damaged|is not a picture"):
        decoder.preprocess(hollow, spec())


def test_a_jpeg_without_its_end_never_comes_to_a_decoder_that_might_fill_it_with_grey() -> None:
    whole = images.jpeg()
    assert _orientation(whole) == _orientation(whole + b"\0\0") == 1
    assert _orientation(whole[:900]) is _orientation(whole[:-2]) is None


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_turns_no_picture(decoder: JpegDecoder) -> None:
    data = images.encode(smooth(60, 80), exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert decoder.preprocess(data, spec()).shape == (24, 20, 3)


def _decode_on_a_gpu(path: Path) -> None:
    try:
        JpegDecoder("cuda")
    except ConfigError as error:
        path.write_text(str(error))


def test_a_device_that_is_not_there_is_said_when_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "error"
    assert forked.start(_decode_on_a_gpu, path, environ=os.environ | {"CUDA_VISIBLE_DEVICES": ""}).wait() == 0
    assert path.read_text().startswith("JPEGs are decoded by nvJPEG on a GPU alone, and torch finds none")
