from pathlib import Path

import pytest

from components.data.index import HELD_OUT, Index, Sample, hold_out, make_index
from components.data.splits import find_splits
from serving.errors import DataError
from tests.support.folders import COLORS, write_images


def index_of(data: Path, seed: int = 0) -> Index:
    return make_index(find_splits(data, {}), seed)


def names(index: Index, split: str) -> list[str]:
    return [sample.name for sample in index.splits[split]]


def test_splits_and_classes_are_found_in_one_folder(tmp_path: Path) -> None:
    index = index_of(write_images(tmp_path, per_class=2))
    assert index.labels == ("apple", "lemon", "plum")
    assert names(index, "test") == [f"test/{label}/{number}.jpg" for label in COLORS for number in (0, 1)]
    assert [sample.target for sample in index.splits["test"]] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("spelling", ["val", "validation", "Valid"])
def test_the_valid_split_goes_by_the_names_people_use(tmp_path: Path, spelling: str) -> None:
    write_images(tmp_path, splits=("train", spelling, "test"), per_class=1)
    assert find_splits(tmp_path, {})["valid"] == tmp_path / spelling


def test_each_split_may_be_a_channel_of_its_own(tmp_path: Path) -> None:
    write_images(tmp_path, per_class=1)
    channels = {"training": tmp_path / "train", "validation": tmp_path / "valid", "test": tmp_path / "test"}
    assert find_splits(None, channels) == {split: tmp_path / split for split in ("train", "valid", "test")}


@pytest.mark.parametrize("channel", ["training", "data"])
def test_a_single_channel_may_hold_all_splits(tmp_path: Path, channel: str) -> None:
    write_images(tmp_path, per_class=1)
    assert set(find_splits(None, {channel: tmp_path})) == {"train", "valid", "test"}


def test_an_archive_unpacked_into_a_folder_of_its_own_name_is_entered(tmp_path: Path) -> None:
    write_images(tmp_path / "dogImages", per_class=1)
    assert find_splits(tmp_path, {})["train"] == tmp_path / "dogImages" / "train"


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for label in ("bus", "train"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.jpg").touch()
    assert find_splits(tmp_path, {}) == {"train": tmp_path}


def test_missing_splits_are_drawn_from_train_by_class_and_by_seed(tmp_path: Path) -> None:
    data = write_images(tmp_path, splits=("train",), per_class=20)
    first, again, other = index_of(data), index_of(data), index_of(data, seed=1)
    assert first == again
    assert names(first, "valid") != names(other, "valid")
    drawn = {split: {sample.path for sample in samples} for split, samples in first.splits.items()}
    assert len(drawn["train"] | drawn["valid"] | drawn["test"]) == 60
    assert sum(map(len, drawn.values())) == 60
    for split in ("valid", "test"):
        targets = [sample.target for sample in first.splits[split]]
        assert {targets.count(target) for target in range(3)} <= {round(HELD_OUT * 20), round(HELD_OUT * 17)}


def test_holding_out_leaves_each_side_at_least_one_of_each_class() -> None:
    samples = [Sample(Path(f"{target}/{number}"), "", target) for target in range(3) for number in range(2)]
    kept, held = hold_out(samples, 0.01, seed=0)
    assert [sample.target for sample in kept] == [sample.target for sample in held] == [0, 1, 2]


def test_hidden_files_and_folders_are_no_classes_and_no_images(tmp_path: Path) -> None:
    data = write_images(tmp_path, per_class=1)
    for hidden in (".ipynb_checkpoints", "lost+found", "__MACOSX"):
        (data / "train" / hidden).mkdir()
    (data / "train" / "apple" / ".DS_Store").touch()
    (data / "train" / "apple" / "Thumbs.db").touch()
    assert names(index_of(data), "train") == [f"train/{label}/0.jpg" for label in COLORS]


def test_images_may_lie_deeper_in_their_class(tmp_path: Path) -> None:
    data = write_images(tmp_path, per_class=1)
    deeper = data / "train" / "apple" / "red" / "2.jpg"
    deeper.parent.mkdir()
    deeper.write_bytes((data / "train" / "apple" / "0.jpg").read_bytes())
    assert "train/apple/red/2.jpg" in names(index_of(data), "train")


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent' does not exist, expected a folder with a folder for each class"):
        find_splits(tmp_path / "absent", {})


def test_a_file_instead_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.zip").touch()
    with pytest.raises(DataError, match=r"data\.zip' is a file"):
        find_splits(tmp_path / "data.zip", {})


def test_no_data_at_all_says_what_to_give() -> None:
    with pytest.raises(DataError, match=r"channels: weights, other.*--data DIR"):
        find_splits(None, {"weights": Path("w"), "other": Path("o")})


def test_a_folder_without_classes_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    with pytest.raises(DataError, match="has no classes") as error:
        index_of(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_one_class_is_nothing_to_learn(tmp_path: Path) -> None:
    (tmp_path / "apple").mkdir()
    (tmp_path / "apple" / "1.jpg").touch()
    with pytest.raises(DataError, match="one class, 'apple'"):
        index_of(tmp_path)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_an_empty_class_is_named(tmp_path: Path, split: str) -> None:
    data = write_images(tmp_path, per_class=1)
    (data / split / "lemon" / "0.jpg").unlink()
    with pytest.raises(DataError, match=rf"{split}/lemon' has no images"):
        index_of(data)


def test_a_split_that_lacks_a_class_is_named_with_it(tmp_path: Path) -> None:
    data = write_images(tmp_path, per_class=1)
    (data / "test" / "apple" / "0.jpg").unlink()
    (data / "test" / "apple").rmdir()
    with pytest.raises(DataError, match=r"classes of test in '.*/test' .* it lacks apple; every class has to be"):
        index_of(data)


def numbered(data: Path) -> Path:
    for label in ("1", "2", "10"):
        for number in range(3):
            path = data / "train" / label / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return data


def test_classes_are_in_the_order_of_imagefolder_or_on_request_by_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from torchvision.datasets.folder import find_classes

    caplog.set_level("INFO")
    folders = find_splits(numbered(tmp_path), {})
    index = make_index(folders, seed=0)
    assert list(index.labels) == find_classes(tmp_path / "train")[0] == ["1", "10", "2"]
    assert "10 comes before 2; --class-order natural" in caplog.text
    assert make_index(folders, seed=0, class_order="natural").labels == ("1", "2", "10")


def test_class_counts_of_every_split_and_imbalance_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = write_images(tmp_path, per_class=1)
    for number in range(1, 6):
        (data / "train" / "plum" / f"{number}.jpg").touch()
    index_of(data)
    assert "images: train 8, valid 3, test 3" in caplog.text
    assert "images of each class in train: apple 1, lemon 1, plum 6" in caplog.text
    assert "images of each class in test: apple 1, lemon 1, plum 1" in caplog.text
    assert "plum has 6 times as many images as apple; --class-weights balanced" in caplog.text


def test_files_of_any_name_are_listed_since_the_decoder_says_what_is_a_picture(tmp_path: Path) -> None:
    data = write_images(tmp_path, per_class=1)
    for name in ("a.gif", "b.heic", "c.avif", "no_suffix", "page.html.jpg"):
        (data / "train" / "apple" / name).touch()
    assert [name.rpartition("/")[2] for name in names(index_of(data), "train")[:6]] == [
        "0.jpg", "a.gif", "b.heic", "c.avif", "no_suffix", "page.html.jpg",
    ]  # fmt: skip


def test_splits_that_disagree_on_classes_are_named_with_the_classes(tmp_path: Path) -> None:
    data = write_images(tmp_path, per_class=1)
    (data / "valid" / "plum").rename(data / "valid" / "pear")
    with pytest.raises(DataError, match=r"valid in '.*valid' .* lacks plum and has pear, which train lacks"):
        index_of(data)


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    data = write_images(tmp_path, splits=("train", "val", "validation"), per_class=1)
    with pytest.raises(DataError, match="are both the valid split"):
        find_splits(data, {})


def test_a_class_of_one_image_cannot_be_divided(tmp_path: Path) -> None:
    data = write_images(tmp_path, splits=("train",), per_class=1)
    with pytest.raises(DataError, match=r"apple' has too few images"):
        index_of(data)


def test_splits_without_classes_are_no_classes(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "1.jpg").touch()
    with pytest.raises(DataError, match="has splits without classes"):
        find_splits(tmp_path, {})


def test_a_flat_split_beside_a_train_with_classes_is_not_left_aside(tmp_path: Path) -> None:
    data = write_images(tmp_path, splits=("train",), per_class=2)
    (data / "valid").mkdir()
    (data / "valid" / "1.jpg").touch()
    with pytest.raises(DataError, match=r"valid' has no classes"):
        index_of(data)
