import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from components.data.duplicates import Policy, find_duplicates, handle_duplicates
from components.data.index import Sample
from serving.errors import DataError
from serving.preprocess import Pixels

LABELS = ("even", "odd")


@dataclass(frozen=True)
class Images:
    samples: Sequence[Sample]
    digests: Sequence[str]
    pixels: Pixels


def images_of(split: str, pixels: Sequence[NDArray[np.uint8]], digests: Sequence[str] = ()) -> Images:
    """Samples SPLIT/0, SPLIT/1 ... under the labels even and odd in turns."""
    samples = [Sample(Path(f"{split}/{place}"), f"{split}/{place}", place % 2) for place in range(len(pixels))]
    own = [hashlib.sha256(f"{split}{place}".encode()).hexdigest() for place in range(len(pixels))]
    return Images(samples, [*digests, *own[len(digests) :]], np.stack(pixels))


def scenes(count: int, seed: int, side: int = 48) -> list[NDArray[np.uint8]]:
    """Pictures with large and small structure, as photographs have; (side, side, 3)."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side, side))
        fine = generator.normal(0, 8, (side, side, 3))
        made.append(np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8))
    return made


def again(pixels: NDArray[np.uint8], change: str) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    if change == "compressed":
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=70)
        image = Image.open(buffer)
    elif change == "resized":
        image = image.resize((36, 36)).resize(image.size)
    elif change == "brighter":
        image = ImageEnhance.Brightness(image).enhance(1.1)
    elif change == "paler":
        image = ImageEnhance.Contrast(image).enhance(0.7)
    return np.asarray(image.convert("RGB"))


def test_the_same_bytes_the_same_pixels_and_nearly_the_same_are_told_apart() -> None:
    test, train = scenes(20, seed=1), scenes(40, seed=2)
    train[3], train[7], train[11] = test[0], test[5], again(test[9], "compressed")
    splits = {
        "train": images_of("train", train, ["x0", "x1", "x2", "same"]),
        "test": images_of("test", test, ["same"]),
    }
    found = [(pair.kind, pair.kept.name, pair.other.name, pair.other_place) for pair in find_duplicates(splits)]
    assert found == [
        ("bytes", "test/0", "train/3", 3),
        ("pixels", "test/5", "train/7", 7),
        ("near", "test/9", "train/11", 11),
    ]


@pytest.mark.parametrize("side", [32, 48, 150])
@pytest.mark.parametrize("change", ["compressed", "resized", "brighter", "paler"])
def test_a_changed_copy_is_found_and_nothing_else(change: str, side: int) -> None:
    test = scenes(50, seed=1, side=side)
    train = scenes(50, seed=2, side=side) + [again(pixels, change) for pixels in test]
    found = find_duplicates({"train": images_of("train", train), "test": images_of("test", test)})
    assert {(pair.kept.name, pair.other.name) for pair in found} == {
        (f"test/{n}", f"train/{50 + n}") for n in range(50)
    }


def test_flat_images_are_duplicates_only_when_they_are_equal() -> None:
    flat = [np.full((32, 32, 3), value, np.uint8) for value in (0, 100, 255, 90)]
    found = find_duplicates({"train": images_of("train", flat[:3]), "test": images_of("test", flat[2:])})
    assert [(pair.kind, pair.other.name) for pair in found] == [("pixels", "train/2")]


def test_images_that_share_a_hash_by_chance_are_not_duplicates() -> None:
    # The hash sees which of two neighbours in a row is brighter: shading from top to bottom does not change it.
    test = [pixels // 4 + 64 for pixels in scenes(20, seed=1)]
    shade = np.linspace(0, 120, 48).astype(np.uint8)[:, None, None]
    train = [pixels + shade for pixels in test]
    assert find_duplicates({"train": images_of("train", train), "test": images_of("test", test)}) == []


def test_sampled_pixels_that_agree_do_not_make_large_images_equal() -> None:
    (one,) = scenes(1, seed=0, side=224)
    other = one.copy()
    other[1, 1] ^= 255
    (pair,) = find_duplicates({"train": images_of("train", [other]), "test": images_of("test", [one])})
    assert pair.kind == "near"


def test_a_split_of_equal_images_gives_one_pair_for_each_to_drop() -> None:
    (one,) = scenes(1, seed=0)
    found = find_duplicates({"train": images_of("train", [one] * 30), "test": images_of("test", [one] * 20)})
    assert [pair.other_place for pair in found] == list(range(30))
    assert {pair.kept.name for pair in found} == {"test/0"}


def handled(policy: Policy, report: Path) -> dict[str, list[int]]:
    test, valid, train = scenes(6, seed=1), scenes(6, seed=2), scenes(8, seed=3)
    valid[1], train[0], train[5] = test[2], test[2], valid[4]
    splits = {
        "train": images_of("train", train),
        "valid": images_of("valid", valid),
        "test": images_of("test", test),
    }
    return {split: places.tolist() for split, places in handle_duplicates(policy, splits, LABELS, report).items()}


ALL = {"train": list(range(8)), "valid": list(range(6)), "test": list(range(6))}


def test_on_request_they_leave_train_for_valid_and_both_for_test(tmp_path: Path) -> None:
    report = tmp_path / "duplicates.csv"
    stay = handled("drop", report)
    assert stay == {"train": [1, 2, 3, 4, 6, 7], "valid": [0, 2, 3, 4, 5], "test": ALL["test"]}
    rows = list(csv.DictReader(report.read_text().splitlines()))
    assert [(row["file"], row["also_as"], row["label"], row["also_label"], row["dropped"]) for row in rows] == [
        ("valid/1", "test/2", "odd", "even", "yes"),
        ("train/0", "test/2", "even", "even", "yes"),
        ("train/0", "valid/1", "even", "odd", "yes"),
        ("train/5", "valid/4", "odd", "even", "yes"),
    ]


def test_by_default_they_are_reported_in_a_table_and_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert handled("report", tmp_path / "duplicates.csv") == ALL
    assert len((tmp_path / "duplicates.csv").read_text().splitlines()) == 5
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert (
        "0 of the same bytes, 4 of the same pixels, 0 nearly the same; 1 in valid and test, 1 in train and test, "
        "2 in train and valid; 3 under two labels; kept (--duplicates drop leaves them out)"
    ) in caplog.text


def test_nothing_is_looked_at_on_request(tmp_path: Path) -> None:
    assert handled("keep", tmp_path / "duplicates.csv") == ALL
    assert not (tmp_path / "duplicates.csv").exists()


def test_a_table_of_an_earlier_run_does_not_outlive_its_reason(tmp_path: Path) -> None:
    (tmp_path / "duplicates.csv").write_text("old")
    splits = {"train": images_of("train", scenes(4, 1)), "test": images_of("test", scenes(4, 2))}
    handle_duplicates("report", splits, LABELS, tmp_path / "duplicates.csv")
    assert not (tmp_path / "duplicates.csv").exists()


def test_dropping_the_last_image_of_a_class_of_train_is_refused(tmp_path: Path) -> None:
    test = scenes(2, seed=1)
    splits = {"train": images_of("train", [*scenes(1, 2), test[1]]), "test": images_of("test", test)}
    with pytest.raises(DataError, match="all images of 'odd' in train are duplicates"):
        handle_duplicates("drop", splits, LABELS, tmp_path / "duplicates.csv")
