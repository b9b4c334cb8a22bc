from pathlib import Path

from PIL import Image

from components.data.digits import write_digits
from components.data.index import make_index
from components.data.splits import find_splits


def test_the_digits_are_a_folder_of_jpegs_with_all_splits(tmp_path: Path) -> None:
    assert write_digits(tmp_path) == 1797
    index = make_index(find_splits(tmp_path, {}), seed=0)
    assert len(index.labels) == 10
    assert {split: len(samples) for split, samples in index.splits.items()} == {
        "train": 1151,
        "valid": 287,
        "test": 359,
    }
    with Image.open(index.splits["test"][0].path) as image:
        assert (image.format, image.size) == ("JPEG", (32, 32))
