"""Content types in."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from serving.bundle import InputSpec
from serving.errors import InvalidInput, UnsupportedContentType
from serving.preprocess import MAX_PICTURES, preprocess
from serving.readers import READERS, Body, Pictures, select_reader
from serving.remote import Remote
from tests.support import images

SPEC = InputSpec(height=32, width=32, resize_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
PICTURES = [images.jpeg(seed=seed) for seed in range(3)]
EXPECTED = np.stack([preprocess(picture, SPEC) for picture in PICTURES])


def read(content_type: str, data: bytes, **attributes: str) -> Pictures:
    reader, parameters = select_reader(content_type)
    return reader(Body(data, parameters, attributes))


def pixels(pictures: Pictures) -> NDArray[np.uint8]:
    return np.stack([decode(SPEC, preprocess) for decode in pictures.decoders if not isinstance(decode, Remote)])


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def claim(shape: str, content: bytes = b"", dtype: str = "|u1") -> bytes:
    """An array whose header says what it likes."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


def form(*files: bytes, close: bytes = b"--\r\n") -> bytes:
    head = b'--XX\r\nContent-Disposition: form-data; name="n"\r\n\r\nnote\r\n'
    parts = (
        b'--XX\r\nContent-Disposition: form-data; name="f"; filename="a.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n" + content + b"\r\n"
        for content in files
    )
    return head + b"".join(parts) + b"--XX" + close


@pytest.mark.parametrize("name", [None, "", "image/heic", "image", "text/html", ";"])
def test_another_content_type_is_refused_with_those_that_are_read(name: str | None) -> None:
    with pytest.raises(UnsupportedContentType, match="expected image/jpeg, image/png"):
        select_reader(name)


@pytest.mark.parametrize("name", ["IMAGE/JPEG", "image/jpg", "application/octet-stream", "application/x-image; a=b"])
def test_a_picture_is_read_however_it_is_called(name: str) -> None:
    pictures = read(name, PICTURES[0])
    assert pictures.is_single
    np.testing.assert_array_equal(pixels(pictures), EXPECTED[:1])


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize(("size", "taken"), [(80, b"\r\n"), (80, b"\r\n\0"), (9, b"\r\n\0")])
def test_a_picture_without_its_line_breaks_is_refused_with_a_hint_at_curl(form: str, size: int, taken: bytes) -> None:
    data = images.encode(images.noise(size, size), form)
    with pytest.raises(InvalidInput, match="curl's -d @FILE leaves them out: send it with --data-binary @FILE"):
        pixels(read("image/jpeg", data.translate(None, taken)))


@pytest.mark.parametrize("data", [PICTURES[0][:300], b"no picture", b"\xff\xd8\xff\xe0\0"])
def test_what_has_its_line_breaks_or_may_have_had_none_is_refused_without_that_hint(data: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        pixels(read("image/jpeg", data))
    assert "curl" not in str(caught.value)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_format_of_pictures_is_read(form: str) -> None:
    data = images.encode(Image.fromarray(images.noise(40, 50)), form)
    np.testing.assert_array_equal(pixels(read(f"image/{form.lower()}", data))[0], preprocess(data, SPEC))


@pytest.mark.parametrize(
    ("content", "is_single"),
    [
        ({"image": encoded(PICTURES[0])}, True),
        ({"image": "data:image/jpeg;base64," + encoded(PICTURES[0])}, True),
        ({"image": {"b64": encoded(PICTURES[0])}}, True),
        ({"images": [encoded(picture) for picture in PICTURES]}, False),
        ({"instances": [{"b64": encoded(picture)} for picture in PICTURES]}, False),
        ({"instances": [{"image_bytes": {"b64": encoded(picture)}} for picture in PICTURES]}, False),
        ({"signature_name": "x", "instances": [encoded(picture) for picture in PICTURES]}, False),
    ],
)
def test_json_holds_pictures_in_base64(content: Any, is_single: bool) -> None:
    pictures = read("application/json", json.dumps(content).encode())
    assert pictures.is_single == is_single
    np.testing.assert_array_equal(pixels(pictures), EXPECTED[:1] if is_single else EXPECTED)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"[" + b"[]," * 10**6 + b"[]]", "JSON of 1000002 lists and objects, expected at most"),
        (b'{"a":[{"b":0}' + b',{"c":1}' * 10**5 + b"]}", "JSON of 100002 fields, expected at most"),
        (b"[" + b"0," * 4_000_001 + b"0]", "JSON of 4000001 values, expected at most"),
        (b"[]", "the JSON is a list, expected"),
        (b"3", "the JSON is a number"),
        (b"{}", "the JSON is an object, expected"),
        (b'{"img": "aaa", "id": 3}', "the JSON is an object with 'img, id', expected"),
        (b'{"inputs": []}', "the Open Inference Protocol's, which is answered at /v2/models/NAME/infer"),
        (
            PICTURES[0],
            "is not JSON but image/jpeg: put the picture into JSON, in base64, or send it as it is to /invoc",
        ),
        (images.encode(images.noise(9, 9), "PNG"), "is not JSON but image/png"),
        (images.encode(images.noise(9, 9), "WEBP"), "is not JSON but image/webp"),
        (b'{"image": 3}', "image is a number, expected base64"),
        (b'{"image": {"a": 1, "b": 2}}', "image is an object, expected base64"),
        (b'{"images": "x"}', '"images" is a text, expected a list'),
        (b'{"instances": []}', "holds 0 pictures, expected 1 to"),
        (b'{"instances": [null]}', r"instances\[0\] is null"),
    ],
)
def test_json_of_another_form_is_refused_with_what_is_expected(data: bytes, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        read("application/json", data)


@pytest.mark.parametrize("text", ["%%%", "YQ", "data:image/png;base64,@@", "ä"])
def test_what_is_not_base64_is_refused(text: str) -> None:
    pictures = read("application/json", json.dumps({"image": text}).encode())
    with pytest.raises(InvalidInput, match=r"not base64|is not a picture"):
        pixels(pictures)


def test_json_lines_hold_a_picture_each() -> None:
    data = b"\n".join(json.dumps({"image": encoded(picture)}).encode() for picture in PICTURES) + b"\n\n"
    pictures = read("application/jsonlines", data)
    assert not pictures.is_single
    np.testing.assert_array_equal(pixels(pictures), EXPECTED)


def test_a_bad_line_is_named() -> None:
    good = json.dumps({"image": encoded(PICTURES[0])}).encode()
    with pytest.raises(InvalidInput, match="line 2 is not JSON"):
        read("application/jsonlines", good + b"\nnonsense")
    with pytest.raises(InvalidInput, match="line 1 holds 2 pictures"):
        read("application/jsonlines", b'{"images": ["YQ==", "YQ=="]}')


def test_a_form_holds_files_and_its_other_fields_are_of_no_matter() -> None:
    several = read("multipart/form-data; boundary=XX", form(*PICTURES))
    assert not several.is_single
    np.testing.assert_array_equal(pixels(several), EXPECTED)
    assert read('multipart/form-data; boundary="XX"', form(PICTURES[0])).is_single


@pytest.mark.parametrize(
    ("content_type", "data", "sentence"),
    [
        ("multipart/form-data", form(b"x"), "has no boundary"),
        ("multipart/form-data; boundary=" + "x" * 71, form(b"x"), "has no boundary"),
        ("multipart/form-data; boundary=XX", form(), "holds 0 pictures"),
        ("multipart/form-data; boundary=XX", form(b"x", close=b""), "cut short"),
        ("multipart/form-data; boundary=XX", b"nonsense", "damaged or cut short"),
        ("multipart/form-data; boundary=XX", b"", "cut short"),
    ],
)
def test_a_broken_form_is_refused(content_type: str, data: bytes, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        read(content_type, data)


def test_a_form_of_very_many_parts_is_refused_before_all_of_them_are_read() -> None:
    with pytest.raises(InvalidInput, match="more than the 1024 parts"):
        read("multipart/form-data; boundary=XX", form(*[b"x"] * 1024))


def test_too_many_pictures_are_refused() -> None:
    with pytest.raises(InvalidInput, match=f"holds {MAX_PICTURES + 1} pictures, expected 1 to {MAX_PICTURES}"):
        read("application/json", json.dumps({"images": ["YQ=="] * (MAX_PICTURES + 1)}).encode())


def test_an_array_of_bytes_goes_the_way_of_pictures() -> None:
    row = np.random.default_rng(0).integers(0, 256, 3072, dtype=np.uint8).reshape(3, 32, 32)  # CIFAR-10's
    pictures = read("application/x-npy", npy(row))
    assert pictures.is_single
    np.testing.assert_array_equal(pixels(pictures)[0], np.moveaxis(row, 0, 2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4"])
def test_floats_are_0_to_1_or_normalized_as_asked(dtype: Any) -> None:
    whole = np.moveaxis(EXPECTED, 3, 1)  # (3, 3, 32, 32)
    unit = (whole / 255).astype(dtype)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (SPEC.mean, SPEC.std))
    normalized = ((whole / 255 - mean) / std).astype(dtype)
    for array, attributes in ((unit, {}), (unit, {"pixel_range": "unit"}), (normalized, {"pixel_range": "normalized"})):
        np.testing.assert_array_equal(pixels(read("application/x-npy", npy(array), **attributes)), EXPECTED)


def test_a_tensor_of_a_photograph_that_is_no_square_is_resized_and_cropped() -> None:
    photograph = images.noise(48, 64)
    tensor = np.moveaxis(photograph, 2, 0)[np.newaxis].astype(np.float32) / 255
    expected = preprocess(images.encode(photograph, "PNG"), SPEC)
    np.testing.assert_array_equal(pixels(read("application/x-npy", npy(tensor)))[0], expected)


def test_fortran_order_is_the_same_picture() -> None:
    array = np.asfortranarray(EXPECTED[0])
    np.testing.assert_array_equal(pixels(read("application/x-npy", npy(array)))[0], EXPECTED[0])


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "not an array in NumPy's"),
        (b"\x93NUMPY\x09\x00", "not an array in NumPy's"),
        (npy(np.zeros((2, 2), np.uint8)), r"shape \(2, 2\), expected"),
        (npy(np.zeros((4, 8, 8), np.uint8)), "expected 3 colour channels"),
        (npy(np.zeros((0, 3, 8, 8), np.uint8)), "has the shape"),
        (npy(np.zeros((3, 8, 8), np.int64)), "the array is of int64, expected uint8"),
        (npy(np.zeros((3, 8, 8), np.uint8))[:-1], "has 192 bytes, and 191 came"),
        (npy(np.zeros((3, 8, 8), np.uint8)).replace(b"(3, 8, 8)", b"(3,999,9)"), "bytes, and 192 came"),
        (claim("(0, 99999999999999999999, 3)"), "has the shape"),
        (claim("(-1, -1, 3)", b"abc"), "has the shape"),
        (claim(f"({'1, ' * 100})", b"a"), "of 100 sides"),
        (claim("(1, 1, 3)", b"abc", "T"), "not an array in NumPy's"),
        (claim(f"({'-' * 3000}1, 1, 3)", b"abc"), "not an array in NumPy's"),
        (claim("(1, 1, 3", b"abc"), "not an array in NumPy's"),
        (npy(np.array([{}], dtype=object)), "the array is of object"),
        (npy(np.zeros((MAX_PICTURES + 1, 3, 1, 1), np.uint8)), "holds 257 pictures"),
        (npy(np.zeros((8_000_000, 3, 1, 1), np.uint8)), "holds 8000000 pictures"),
    ],
)
def test_what_is_no_array_of_pictures_is_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        read("application/x-npy", data)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [(np.nan, "not finite"), (np.inf, "not finite"), (255.0, "reach from 0 to 255"), (-2.0, "pixel_range=normalized")],
)
def test_floats_of_another_range_are_refused(value: float, sentence: str) -> None:
    array = np.zeros((3, 8, 8), np.float32)
    array[0, 0, 0] = value
    with pytest.raises(InvalidInput, match=sentence):
        pixels(read("application/x-npy", npy(array)))


@pytest.mark.parametrize(
    ("low", "high", "given", "advice"),
    [
        (0, 255, "unit", "0 to 255 is read as uint8 alone, send the array as that"),
        (0, 255, "normalized", "0 to 255 is read as uint8 alone, send the array as that"),
        (-1, 1, "unit", "send uint8, or the custom attribute pixel_range=normalized"),
        (0, 0.99, "normalized", "send uint8, or the custom attribute pixel_range=unit"),
        (
            -128,
            127,
            "unit",
            "send uint8 from 0 to 255, or floats from 0 to 1 with the custom attribute pixel_range=unit",
        ),
    ],
)
def test_floats_of_another_range_are_refused_with_advice_that_helps(
    low: float, high: float, given: str, advice: str
) -> None:
    std = (0.2, 0.2, 0.2) if given == "unit" else (0.9, 0.9, 0.9)
    spec = SPEC.model_copy(update={"mean": (0.5, 0.5, 0.5), "std": std})
    array = np.linspace(low, high, 192).reshape(3, 8, 8)
    (decode,) = read("application/x-npy", npy(array), pixel_range=given).decoders
    assert not isinstance(decode, Remote)
    with pytest.raises(InvalidInput) as caught:
        decode(spec, preprocess)
    assert str(caught.value).endswith(f": {advice}")


def test_an_unknown_pixel_range_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"pixel_range in .* is 'bytes', expected unit or normalized"):
        read("application/x-npy", npy(EXPECTED[0]), pixel_range="bytes")


def test_every_row_of_the_table_is_a_media_type() -> None:
    assert all(name.count("/") == 1 and name == name.lower() for name in READERS)
