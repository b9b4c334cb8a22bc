import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.report import thumbnails as module
from components.report.thumbnails import SIDE_PX, thumbnails
from tests.support.images import encode, noise


def test_a_thumbnail_is_a_small_upright_jpeg_without_what_else_the_file_held(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif[0x010F] = "a camera and its owner"
    path = tmp_path / "large.jpg"
    path.write_bytes(encode(noise(300, 800), exif=exif))
    address = thumbnails([path])[path]
    head, _, body = address.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(body)))
    assert head == "data:image/jpeg;base64"
    assert image.size == (60, SIDE_PX)
    assert not image.getexif()


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"<svg onload=alert(1)>")
    assert thumbnails([broken, tmp_path / "missing.jpg", Path("a\0b")]) == {}


def test_together_they_stay_below_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    for number in range(5):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (160, 160, 3), dtype=np.uint8)).save(paths[-1])
    size = max(len(base64.b64decode(address.partition(",")[2])) for address in thumbnails(paths).values())
    monkeypatch.setattr(module, "MAX_TOTAL_BYTES", int(2.5 * size))
    assert list(thumbnails(paths)) == paths[:2]
