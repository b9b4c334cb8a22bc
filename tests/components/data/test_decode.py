from pathlib import Path

import numpy as np
import pytest

from components.cache import Cache
from components.data.decode import Progress, Split, decode_split, decode_splits
from components.data.index import make_index
from components.data.splits import find_splits
from components.model import input_spec
from serving.errors import DataError
from serving.preprocess import preprocess
from tests.support.folders import write_images

SPEC = input_spec(32)


def decode(data: Path, max_unreadable: float = 0.5, progress: Progress | None = None) -> dict[str, Split]:
    index = make_index(find_splits(data, {}), seed=0)
    report = data.parent / "unreadable.csv"
    specs = dict.fromkeys(index.splits, SPEC)
    cache = Cache(data.parent / "cache")
    return decode_splits(
        index, specs, cache, max_unreadable=max_unreadable, report=report, progress=progress or (lambda *_: None)
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_images(tmp_path / "data", per_class=3)


def test_pixels_are_those_that_serving_makes_in_the_order_of_the_samples(data: Path) -> None:
    split = decode(data)["valid"]
    assert split.pixels.shape == (9, 32, 32, 3)
    for sample, pixels, target in zip(split.samples, split.pixels, split.targets, strict=True):
        np.testing.assert_array_equal(pixels, preprocess(sample.path.read_bytes(), SPEC))
        assert target == sample.target


def test_unreadable_files_are_left_out_and_listed_with_the_reason(data: Path) -> None:
    torn, page = data / "train" / "apple" / "0.jpg", data / "train" / "lemon" / "1.jpg"
    torn.write_bytes(torn.read_bytes()[:-200])
    page.write_text("<html>not found</html>")
    split = decode(data)["train"]
    assert [sample.name for sample in split.samples][:3] == [
        "train/apple/1.jpg",
        "train/apple/2.jpg",
        "train/lemon/0.jpg",
    ]
    assert split.targets.tolist() == [0, 0, 1, 1, 2, 2, 2]
    listed = (data.parent / "unreadable.csv").read_text()
    assert f"{torn},the JPEG picture is damaged or cut short" in listed
    assert f"{page}," in listed


def test_too_many_unreadable_files_stop_the_run_and_name_the_first(data: Path) -> None:
    (data / "train" / "apple" / "0.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 27 files are unreadable, .*train/apple/0\.jpg.*--max-unreadable"):
        decode(data, max_unreadable=0.01)


def test_a_class_without_a_readable_image_is_named(data: Path) -> None:
    for path in (data / "test" / "plum").iterdir():
        path.write_text("text")
    with pytest.raises(
        DataError, match=r"class 'plum' of test has no readable image; the first is '.*test/plum/0\.jpg'"
    ):
        decode(data, max_unreadable=0.01)


def test_a_report_of_an_earlier_run_does_not_outlive_its_reason(data: Path) -> None:
    (data.parent / "unreadable.csv").write_text("old")
    decode(data)
    assert not (data.parent / "unreadable.csv").exists()


def test_images_are_decoded_once_and_again_when_any_byte_of_any_file_changes(data: Path) -> None:
    decoded: list[str] = []

    def progress(what: str, done: int, total: int) -> None:
        if done == total:
            decoded.append(what)

    first = decode(data, progress=progress)["train"]
    assert decoded == ["decode train", "decode valid", "decode test"]
    assert decode(data, progress=progress)["train"].key == first.key
    assert len(decoded) == 3
    path = data / "train" / "plum" / "2.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    assert decode(data, progress=progress)["train"].key != first.key
    assert decoded[3:] == ["decode train"]


def test_another_size_is_another_entry(data: Path) -> None:
    index = make_index(find_splits(data, {}), seed=0)
    cache = Cache(data.parent / "cache")
    keys = {
        decode_split(index.splits["train"], input_spec(size), cache, what="train", progress=lambda *_: None)[0].key
        for size in (32, 40)
    }
    assert len(keys) == 2
