import pytest
from PIL import Image

from serving.errors import InvalidInput
from serving.formats import name_of
from serving.preprocess import decode
from tests.support import images


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "HEIC is not read here, expected one of JPEG"),
        (images.encode(Image.new("RGB", (16, 16)), "AVIF"), "AVIF is not read here"),
        (images.encode(Image.new("RGB", (16, 16)), "ICO"), r"an icon \(ICO\) is not read here"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"></svg>', "SVG is not read here"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "an HTML page is not a picture, expected one of JPEG"),
        (b"\n\n<html lang=en>", "an HTML page is not a picture"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML is not a picture"),
        (b'{"message": "Forbidden"}', "JSON is not a picture"),
        (b"%PDF-1.7", "PDF is not a picture"),
        (b"PK\x03\x04....", "a zip archive is not a picture"),
        (b"version https://git-lfs.github.com/spec/v1\noid", r"Git LFS pointer .*run git lfs pull"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00", r"a video \(MP4\)"),
        (bytes(100), "nothing but zero bytes is not a picture"),
        (b"hello there", "a text that starts with b'hello th' is not a picture"),
        (b"\x01\x02\x03", r"what starts with b'\\x01\\x02\\x03' is not a picture"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


def test_any_bytes_have_a_name() -> None:
    for length in range(20):
        assert name_of(bytes([255, 1] * 10)[:length])
