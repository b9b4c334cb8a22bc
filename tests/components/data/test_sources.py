import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from components.cache import Cache
from components.data import cifar
from components.data.index import Index
from components.data.sources import open_index
from serving.errors import DataError
from tests.support.cifar import NAMES, write_batches
from tests.support.folders import COLORS, write_images

Opened = Callable[..., Index]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Index of a source or of channels, with a cache of the test's own."""

    def index(data: Path | None = None, **channels: Path) -> Index:
        return open_index(data, channels, Cache(tmp_path / "cache"), seed=0)

    return index


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """FOLDER/images/LABEL-SPLIT-N.jpg: pictures whose place says nothing."""
    data = write_images(tmp_path / "made", per_class=4)
    (tmp_path / "flat" / "images").mkdir(parents=True)
    for path in data.rglob("*.jpg"):
        split, label, name = path.relative_to(data).parts
        path.rename(tmp_path / "flat" / "images" / f"{label}-{split}-{name}")
    return tmp_path / "flat"


def files_of(flat: Path) -> list[tuple[str, str, str]]:
    """File, label and split of each picture."""
    paths = sorted((flat / "images").glob("*.jpg"))
    return [(f"images/{path.name}", path.stem.split("-")[0], path.stem.split("-")[1]) for path in paths]


def summary(index: Index) -> dict[str, list[tuple[str, str]]]:
    """Content-free name of every picture and its label, by split."""
    return {
        split: sorted((sample.path.name, index.labels[sample.target]) for sample in samples)
        for split, samples in index.splits.items()
    }


def expected(flat: Path) -> dict[str, list[tuple[str, str]]]:
    return {
        split: sorted((Path(file).name, label) for file, label, its in files_of(flat) if its == split)
        for split in ("train", "valid", "test")
    }


def pack(source: Path, archive: Path, *, inside: str = "") -> Path:
    """Zip or tar of a folder, as a folder called `inside` or right in it."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for path in source.rglob("*"):
                zipped.write(path, Path(inside) / path.relative_to(source))
    else:
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(source, arcname=inside or ".")
    return archive


@pytest.mark.parametrize("inside", ["", "dogImages"])
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize("is_channel", [True, False])
def test_an_archive_alone_or_in_a_channel_is_the_folder_it_was_made_from(
    tmp_path: Path, opened: Opened, name: str, inside: str, is_channel: bool
) -> None:
    data = write_images(tmp_path / "data", per_class=2)
    archive = pack(data, tmp_path / "channel" / name, inside=inside)
    index = opened(training=archive.parent) if is_channel else opened(archive)
    plain = opened(data)
    assert index.labels == plain.labels
    for split, samples in plain.splits.items():
        assert [(s.name, s.target) for s in index.splits[split]] == [(s.name, s.target) for s in samples]
        assert [s.path.read_bytes() for s in index.splits[split]] == [s.path.read_bytes() for s in samples]


def test_an_archive_is_unpacked_once_and_anew_when_its_content_changes(tmp_path: Path, opened: Opened) -> None:
    data = write_images(tmp_path / "data", per_class=2)
    archive = pack(data, tmp_path / "a.zip")
    first, again = opened(archive), opened(archive)
    assert first == again
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1
    (data / "train" / "apple" / "1.jpg").write_bytes(b"other")
    pack(data, archive)
    assert opened(archive).splits["train"][1].path.read_bytes() == b"other"


def test_each_split_may_be_an_archive(tmp_path: Path, opened: Opened) -> None:
    data = write_images(tmp_path / "data", per_class=2)
    for split in ("train", "valid", "test"):
        pack(data / split, tmp_path / "packed" / f"{split}.zip")
    assert [s.name for s in opened(tmp_path / "packed").splits["test"]] == [
        f"test/{label}/{number}.jpg" for label in COLORS for number in (0, 1)
    ]
    channels = {split: tmp_path / "packed" / f"{split}.zip" for split in ("train", "valid", "test")}
    assert summary(opened(**channels)) == summary(opened(data))


def test_folders_are_read_as_without_this_module(tmp_path: Path, opened: Opened) -> None:
    data = write_images(tmp_path / "data", per_class=4)
    channels = {split: data / split for split in ("train", "valid", "test")}
    assert opened(data) == opened(**channels) == opened(anything=data)
    assert len(opened(data / "train").splits["valid"]) == 3


BATCH_SOURCES: dict[str, Callable[[Path, Path], Path]] = {
    "folder": lambda batches, _: batches,
    "parent": lambda batches, _: batches.parent,
    "tar.gz": lambda batches, to: pack(batches, to / "cifar-10-python.tar.gz", inside=cifar.FOLDER),
    "channel with tar.gz": lambda batches, to: pack(batches, to / "c" / "x.tar.gz", inside=cifar.FOLDER).parent,
    "zip": lambda batches, to: pack(batches, to / "x.zip"),
}


@pytest.mark.parametrize("kind", BATCH_SOURCES)
def test_cifar_batches_are_an_index_of_pictures_by_the_names_of_their_labels(
    tmp_path: Path, opened: Opened, kind: str
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (80, 32, 32, 3), dtype=np.uint8)
    batches = write_batches(tmp_path / "d" / cifar.FOLDER, images, [i % 10 for i in range(80)], num_test=20)
    index = opened(BATCH_SOURCES[kind](batches, tmp_path))
    assert index.labels == NAMES
    assert {split: len(samples) for split, samples in index.splits.items()} == {"train": 50, "valid": 10, "test": 20}
    assert index.splits["test"][0].name == "test/airplane/test_batch_00000.png"


def test_a_damaged_original_cifar_archive_is_refused(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.zeros((40, 32, 32, 3), np.uint8)
    batches = write_batches(tmp_path / cifar.FOLDER, images, [i % 10 for i in range(40)], num_test=10)
    archive = pack(batches, tmp_path / cifar.ARCHIVE, inside=cifar.FOLDER)
    monkeypatch.setattr(cifar, "ARCHIVE_BYTES", archive.stat().st_size)
    with pytest.raises(DataError, match=rf"damaged: its sha256 is .*CIFAR-10's is {cifar.ARCHIVE_SHA256}"):
        opened(archive)


def write_csv(flat: Path, header: str, line: str, name: str = "labels.csv") -> Path:
    rows = [line.format(file=file, name=Path(file).name, stem=Path(file).stem, label=label, split=split)
            for file, label, split in files_of(flat)]  # fmt: skip
    (flat / name).write_text("\n".join(filter(None, [header, *rows])) + "\n", encoding="utf-8-sig")
    return flat / name


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("file,label,split", "{file},{label},{split}"),
        ("Label;Image Path;Data Set", "{label};{file};{split}"),
        ("class\tfilename\tsubset", "{label}\t{name}\t{split}"),
        ("id,breed,split", "{stem},{label},{split}"),
        ("", "{file},{label},{split}"),
        ("class id,filepaths,labels,data set", '7,"{file}",{label},{split}'),
        ("file,label,split", "/home/me/pets/flat/{file},{label},{split}"),
        ("file,label,split", "C:\\pets\\flat\\images\\{name},{label},{split}"),
        ("file,label,split", "../../{file},{label},{split}"),
    ],
)
def test_a_csv_says_label_and_split_under_the_names_people_use(
    flat: Path, opened: Opened, header: str, line: str
) -> None:
    listing = write_csv(flat, header, line)
    assert summary(opened(flat)) == summary(opened(listing)) == expected(flat)


def test_a_csv_without_splits_is_divided_and_names_are_paths_from_the_data_folder(flat: Path, opened: Opened) -> None:
    write_csv(flat, "file,label", "{file},{label}")
    index = opened(flat)
    assert {split: len(samples) for split, samples in index.splits.items()} == {"train": 24, "valid": 6, "test": 6}
    assert all((flat / sample.name) == sample.path for samples in index.splits.values() for sample in samples)


def test_listings_named_for_splits_are_those_splits(flat: Path, opened: Opened) -> None:
    for split in ("train", "valid", "test"):
        lines = [f"{file},{label}" for file, label, its in files_of(flat) if its == split]
        (flat / f"birds_{split}.csv").write_text("\n".join(["file,label", *lines]))
    (flat / "sample_submission.csv").write_text("id,label\n1,x\n")
    assert summary(opened(flat)) == expected(flat)


def test_folders_that_say_everything_win_over_a_listing_and_it_is_logged(
    tmp_path: Path, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data = write_images(tmp_path / "data", per_class=2)
    (data / "birds.csv").write_text("filepaths,labels\nx.jpg,y\n")
    assert opened(data).labels == tuple(COLORS)
    assert "birds.csv is not read, give it as --data FILE" in caplog.text


def test_lst_files_in_channels_of_their_own_list_the_images_of_the_others(
    flat: Path, tmp_path: Path, opened: Opened
) -> None:
    numbers = {label: place for place, label in enumerate(COLORS)}
    channels: dict[str, Path] = {}
    for split, channel in (("train", "train"), ("valid", "validation")):
        rows = [(file, label) for file, label, its in files_of(flat) if its == split]
        lines = [f"{place}\t{numbers[label]}.000000\t{file}" for place, (file, label) in enumerate(rows)]
        lst = tmp_path / f"{channel}_lst"
        lst.mkdir()
        (lst / f"{split}.lst").write_text("\n".join(lines))
        channels |= {channel: flat, f"{channel}_lst": lst}
    index = opened(**channels)
    assert index.labels == ("0", "1", "2")
    assert len(index.splits["valid"]) == 12
    sample = index.splits["train"][0]
    assert (sample.name, sample.path) == ("train/images/apple-train-0.jpg", flat / "images" / "apple-train-0.jpg")


def manifest_line(file: str, label: str, metadata: Mapping[str, object] | None, attribute: str = "pets") -> str:
    given: dict[str, object] = {"source-ref": f"s3://bucket/some/prefix/{file}", attribute: list(COLORS).index(label)}
    return json.dumps(given | ({f"{attribute}-metadata": metadata} if metadata is not None else {}))


@pytest.mark.parametrize("is_flat_channel", [True, False])
def test_a_ground_truth_manifest_finds_its_files_by_the_end_of_their_address(
    flat: Path, opened: Opened, is_flat_channel: bool
) -> None:
    root = flat / "images" if is_flat_channel else flat
    lines = []
    for place, (file, label, _) in enumerate(files_of(flat)):
        metadata = {"class-name": label, "type": "groundtruth/image-classification", "human-annotated": "yes"}
        # as in AWS's own example, only some lines say what a number is called
        lines.append(manifest_line(file, label, metadata if place % 2 else None))
    (root / "output.manifest").write_text("\n".join(lines))
    index = opened(train=root)
    assert index.labels == tuple(COLORS)
    everything = sorted(pair for pairs in summary(index).values() for pair in pairs)
    assert everything == sorted((Path(file).name, label) for file, label, _ in files_of(flat))


def test_of_chained_labelling_jobs_the_last_one_counts_and_rows_without_label_are_logged(
    flat: Path, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    lines = []
    for file, label, _ in files_of(flat)[:-1]:
        first = json.loads(manifest_line(file, "plum", {"class-name": "plum"}, "first"))
        second = json.loads(manifest_line(file, label, {"class-name": label}, "second"))
        lines.append(json.dumps(first | second | {"boxes": {"annotations": []}, "boxes-metadata": {}}))
    lines.append(json.dumps({"source-ref": "s3://b/" + files_of(flat)[-1][0], "x-metadata": {"failure-reason": "y"}}))
    (flat / "output.manifest").write_text("\n".join(lines))
    pairs = [pair for pairs in summary(opened(flat)).values() for pair in pairs]
    assert sorted(pairs) == sorted((Path(file).name, label) for file, label, _ in files_of(flat)[:-1])
    assert "1 of 36 rows have no label and are left out, the first is line 36" in caplog.text


def test_json_lines_with_file_and_label_are_a_listing(flat: Path, opened: Opened) -> None:
    lines = [json.dumps({"file_name": f, "label": label, "split": split}) for f, label, split in files_of(flat)]
    (flat / "metadata.jsonl").write_text("\n".join(lines))
    assert summary(opened(flat)) == expected(flat)


def test_files_that_are_listed_but_not_there_stay_to_be_reported_as_unreadable(
    flat: Path, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    listing = write_csv(flat, "file,label", "{file},{label}")
    listing.write_text(listing.read_text() + "../../etc/hostname,plum\n/etc/passwd,plum\n")
    index = opened(flat)
    paths = [sample.path for samples in index.splits.values() for sample in samples]
    assert {path for path in paths if not path.exists()} == {flat / "etc" / "hostname", flat / "etc" / "passwd"}
    assert all(path.is_relative_to(flat) and ".." not in path.parts for path in paths)
    assert "2 of 38 files are not there, the first is ../../etc/hostname" in caplog.text


BAD_LISTINGS = {
    "a.csv": [
        ("file,label\n", "no rows"),
        ("file,label\nimages/apple-train-0.jpg\n", "line 2 of listing .* has 1 fields"),
        ("file,label\n,plum\n", "line 2 .* names no file"),
        ("file,label,split\nimages/apple-train-0.jpg,apple,holdout\n", "'holdout', expected train, valid or test"),
        ("file,label\nnowhere.jpg,apple\n", "none of the 1 files .* the first is 'nowhere.jpg'"),
        ("file,label\nimages/apple-train-0.jpg,a\nimages/apple-train-0.jpg,b\n", "two labels, 'a' in line 2 and 'b'"),
        ("file,label,split\nimages/apple-train-0.jpg,a,test\n", "lists test but nothing for the train split"),
    ],
    "a.lst": [
        ("0 1 images/apple-train-0.jpg\n", "has 1 fields between tabs, expected three"),
        ("0\t1\t0\timages/apple-train-0.jpg\n", "has 4 fields between tabs"),
    ],
    "a.manifest": [
        ("{}\n", "expected source-ref and a label"),
        ("[1]\n", "holds a list, expected an object"),
        ("{\n", "line 1 .* is not JSON"),
        ('{"source-ref": "s3://b/x.jpg", "a": [0, 1]}', r"has the label \[0, 1\], expected one name or one number"),
    ],
}


@pytest.mark.parametrize(
    ("name", "content", "reason"), [(name, *case) for name, cases in BAD_LISTINGS.items() for case in cases]
)
def test_a_listing_that_cannot_be_read_is_named_with_the_line(
    flat: Path, opened: Opened, name: str, content: str, reason: str
) -> None:
    (flat / name).write_text(content)
    with pytest.raises(DataError, match=reason) as caught:
        opened(flat / name)
    assert "\n" not in str(caught.value)


def test_an_entry_that_fits_two_files_is_refused(flat: Path, opened: Opened) -> None:
    shutil.copytree(flat / "images", flat / "copies")
    write_csv(flat, "file,label", "{name},{label}")
    with pytest.raises(DataError, match=r"could be 'copies/.*' and 'images/.*': write more of its path"):
        opened(flat)


def test_several_listings_without_split_names_are_not_guessed_at(flat: Path, opened: Opened) -> None:
    write_csv(flat, "file,label", "{file},{label}", "one.csv")
    write_csv(flat, "file,label", "{file},{label}", "two.csv")
    with pytest.raises(DataError, match=r"several listings \('one.csv', 'two.csv'\): give the one you mean"):
        opened(flat)


def test_what_is_no_source_says_what_would_be(tmp_path: Path, opened: Opened) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="neither a zip or tar nor a listing"):
        opened(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="does not exist, expected a folder"):
        opened(tmp_path / "absent")


def test_a_channel_of_one_split_that_holds_all_is_refused(tmp_path: Path, opened: Opened) -> None:
    data = write_images(tmp_path / "data", per_class=2)
    with pytest.raises(DataError, match="given for the train split but has splits of its own"):
        opened(train=data, test=data / "test")
