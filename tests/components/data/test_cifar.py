import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from components.data import cifar
from serving.errors import DataError
from tests.support.cifar import NAMES, write_batches

SHARED = Path(__file__).parents[4] / "shared" / "data" / "cifar10"
LABELS = [place % 10 for place in range(60)]


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """CIFAR-10's own images where they are at hand, noise elsewhere; (60, 32, 32, 3), by LABELS."""
    if not SHARED.is_dir():
        return np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    of_each = {name: sorted((SHARED / "train" / name).glob("*.jpg")) for name in NAMES}
    paths = [of_each[NAMES[label]][place // 10] for place, label in enumerate(LABELS)]
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])


@pytest.mark.parametrize("protocol", [None, 0, 1, 2, 3, 4, 5])
def test_every_row_becomes_a_lossless_picture_under_its_label(
    tmp_path: Path, images: NDArray[np.uint8], protocol: int | None
) -> None:
    batches = write_batches(tmp_path / "batches", images, LABELS, num_test=20, protocol=protocol)
    assert cifar.write_images(batches, tmp_path / "out") == 60
    written = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*.png")}
    assert len(written) == 60
    for place in range(60):
        split, batch, row = (
            ("train", f"data_batch_{1 + place // 20}", place % 20) if place < 40 else ("test", "test_batch", place - 40)
        )
        with Image.open(written[f"{split}/{NAMES[LABELS[place]]}/{batch}_{row:05d}.png"]) as image:
            image.load()
            assert (image.format, image.mode) == ("PNG", "RGB")
            np.testing.assert_array_equal(np.asarray(image), images[place])


def test_valid_is_drawn_by_seed_and_class_from_the_training_batches(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    batches = write_batches(tmp_path / "batches", images, LABELS, num_test=20)

    def drawn(seed: int, name: str) -> dict[str, set[str]]:
        cifar.write_images(batches, tmp_path / name, valid_seed=seed)
        return {
            split: {p.name for p in (tmp_path / name / split).rglob("*.png")} for split in ("train", "valid", "test")
        }

    first, again, other = drawn(0, "a"), drawn(0, "b"), drawn(1, "c")
    assert first == again
    assert first["valid"] != other["valid"]
    assert {path.name for path in (tmp_path / "a" / "valid").iterdir()} == set(NAMES)
    assert {name[:4] for name in first["valid"]} == {"data"}
    assert {split: len(names) for split, names in first.items()} == {"train": 30, "valid": 10, "test": 20}


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("where", ["data_batch_1", "batches.meta"])
def test_a_pickle_that_calls_anything_is_refused_and_calls_nothing(
    tmp_path: Path, images: NDArray[np.uint8], protocol: int, where: str
) -> None:
    batches = write_batches(tmp_path / "batches", images, LABELS, num_test=20)
    marker = tmp_path / "owned"
    attack = {b"data": Call(os.mkdir, str(marker)), b"labels": []}
    (batches / where).write_bytes(pickle.dumps(attack, protocol=protocol))
    with pytest.raises(DataError, match=r"wants to call posix\.mkdir, .* it may be an attack and is not loaded"):
        cifar.write_images(batches, tmp_path / "out")
    assert not marker.exists()
    pickle.loads((batches / where).read_bytes())
    assert marker.exists(), "the attack would have worked"


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"ccopyreg\n_reconstructor\n.",
        b"(S'x'\nios\nsystem\n.",
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.",
        b"\x80\x02cnumpy\nndarray\nN}X\x06\x00\x00\x00__new__K\x01s\x86b.",
        b"\x80\x02c_codecs\nencode\nN}U\x07__new__K\x01s\x86b.",
        b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
        b"\x82\x01.",
        b"P1\n.",
        b"not a pickle",
        b"",
        b"]" * 10,
        pickle.dumps([1]),
        pickle.dumps({"data": np.zeros((2, 3072)), "labels": [0, 1]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}),
        pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}),
        pickle.dumps({"data": np.array([[None] * 3072]), "labels": [0]}),
    ],
)
def test_a_file_that_is_no_batch_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    stand_ins = {kind: dict(vars(kind)) for kind in cifar.STAND_INS.values()}
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match="data_batch_1'"):
        cifar.read_batch(tmp_path / "data_batch_1", 10)
    assert {kind: dict(vars(kind)) for kind in cifar.STAND_INS.values()} == stand_ins, "a pickle changed our classes"


@pytest.mark.parametrize("name", ["../x", ".hidden", "", "a/b"])
def test_label_names_that_are_no_folders_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": ["ok", name]}))
    with pytest.raises(DataError, match="no names of folders"):
        cifar.read_labels(tmp_path / "batches.meta")


def test_the_original_is_told_by_its_checksums(
    tmp_path: Path, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    batches = write_batches(tmp_path / "batches", images, LABELS, num_test=20)
    assert not cifar.check_original(batches)
    assert "not the original CIFAR-10, read as it is" in caplog.text
    known = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in cifar.batch_files(batches)}
    monkeypatch.setattr(cifar, "FILES_MD5", known)
    assert cifar.check_original(batches)


def test_an_original_with_a_damaged_file_is_refused(
    tmp_path: Path, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = write_batches(tmp_path / "batches", images, LABELS, num_test=20)
    known = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in cifar.batch_files(batches)}
    monkeypatch.setattr(cifar, "FILES_MD5", known)
    torn = batches / "test_batch"
    torn.write_bytes(torn.read_bytes()[:-1])
    with pytest.raises(DataError, match="damaged or missing, test_batch: fetch it again"):
        cifar.check_original(batches)
