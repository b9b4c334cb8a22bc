"""CIFAR-10 in its original python batches, read without running what a pickle may ask for.

A batch is a pickle of a dict: `data` (N, 3072) uint8, red, green and blue planes of 32 x 32, and `labels`, a list of N
whole numbers; `batches.meta` has their names. Source: https://www.cs.toronto.edu/~kriz/cifar.html
"""

import hashlib
import io
import logging
import pickle  # only `_Unpickler` below, which makes nothing but plain values
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components.data.index import HELD_OUT, Sample, hold_out
from serving.errors import DataError
from serving.machine import num_cpus

logger = logging.getLogger(__name__)

FOLDER: Final = "cifar-10-batches-py"
ARCHIVE: Final = "cifar-10-python.tar.gz"
ARCHIVE_BYTES: Final = 170_498_071
ARCHIVE_MD5: Final = "c58f30108f718f92721af3b95e74349a"
ARCHIVE_SHA256: Final = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
# As in torchvision/datasets/cifar.py.
FILES_MD5: Final = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
META: Final = "batches.meta"
SIDE_PX: Final = 32
PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
MAX_BATCH_BYTES: Final = 1 << 28  # an original one has 31 MB

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Batch:
    """One file of images."""

    name: str
    images: NDArray[np.uint8]
    """(N, 32, 32, 3), RGB."""
    targets: tuple[int, ...]


def is_batches(folder: Path) -> bool:
    """Whether a folder holds CIFAR-10's batches."""
    return (folder / META).is_file() and bool(_train_files(folder))


def batch_files(folder: Path) -> list[Path]:
    """The files that make up the set, in a fixed order."""
    test = folder / "test_batch"
    return [*_train_files(folder), *([test] if test.is_file() else []), folder / META]


def check_original(folder: Path) -> bool:
    """Compare the files with the original's checksums and log the outcome; True when they are the original's.

    Raises:
        DataError: Some are and some are not.
    """
    differing = [name for name, md5 in FILES_MD5.items() if not _has_md5(folder / name, md5)]
    if not differing:
        logger.info("%s: the original CIFAR-10 batches, by checksum", folder)
        return True
    if len(differing) < len(FILES_MD5):
        raise DataError(
            f"{str(folder)!r} is CIFAR-10 with files that are damaged or missing, {', '.join(differing)}: "
            "fetch it again"
        )
    logger.warning("%s: not the original CIFAR-10, read as it is", folder)
    return False


def write_images(
    folder: Path, into: Path, *, valid_seed: int | None = None, progress: Progress = lambda *_: None
) -> int:
    """Write the batches in `folder` as lossless PNG files: INTO/{train,valid,test}/LABEL/BATCH_ROW.png.

    Args:
        folder: Holds data_batch_*, batches.meta and perhaps test_batch.
        into: An empty folder.
        valid_seed: Draws the valid split from the training batches, by class; None: there is none.
        progress: Told of every image.

    Returns:
        The number of images.

    Raises:
        DataError: A file is damaged, or its pickle asks for anything but dicts, lists, numbers, texts and arrays.
    """
    labels = read_labels(folder / META)
    batches = [read_batch(path, len(labels)) for path in batch_files(folder) if path.name != META]
    images = {batch.name: batch.images for batch in batches}
    splits: dict[str, Sequence[Sample]] = {
        "train": [sample for batch in batches if batch.name != "test_batch" for sample in _samples(batch)],
        "test": [sample for batch in batches if batch.name == "test_batch" for sample in _samples(batch)],
    }
    if valid_seed is not None:
        splits["train"], splits["valid"] = hold_out(splits["train"], HELD_OUT, valid_seed, labels)
    jobs = [
        (images[sample.path.name][int(sample.name)], into / split / labels[sample.target] / _file_name(sample))
        for split, samples in splits.items()
        for sample in samples
    ]
    for place in sorted({path.parent for _, path in jobs}):
        place.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(num_cpus()) as pool:
        for done, _ in enumerate(pool.map(_write_png, jobs), start=1):
            progress("unpack CIFAR-10", done, len(jobs))
    return len(jobs)


def read_labels(path: Path) -> tuple[str, ...]:
    """Names of the labels, in the order of their numbers.

    Raises:
        DataError: As for `write_images`.
    """
    names = _load(path).get("label_names")
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise DataError(f"{str(path)!r} has no label_names, expected a list of names: fetch the set again")
    bad = next((name for name in names if not name or name.startswith(".") or "/" in name or "\0" in name), None)
    if bad is not None or len(set(names)) < len(names):
        raise DataError(f"{str(path)!r} has label_names that are no names of folders ({bad!r}) or the same: mend it")
    return tuple(names)


def read_batch(path: Path, num_labels: int) -> Batch:
    """Images and targets of one file.

    Raises:
        DataError: As for `write_images`.
    """
    content = _load(path)
    data, labels = content.get("data"), content.get("labels")
    expected = f"expected data (N, {3 * SIDE_PX**2}) of uint8 and N labels below {num_labels}"
    if not isinstance(data, _Array) or not isinstance(labels, list):
        raise DataError(f"{str(path)!r} is no CIFAR-10 batch, {expected}: fetch the set again")
    pixels = data.as_uint8()
    if pixels is None or pixels.shape != (len(labels), 3 * SIDE_PX**2):
        found = "no such data" if pixels is None else f"data {pixels.shape} and {len(labels)} labels"
        raise DataError(f"{str(path)!r} has {found}, {expected}: fetch the set again")
    if not all(type(label) is int and 0 <= label < num_labels for label in labels):
        raise DataError(f"{str(path)!r} has labels that are not below {num_labels}: fetch the set again")
    images = pixels.reshape(-1, 3, SIDE_PX, SIDE_PX).transpose(0, 2, 3, 1)
    return Batch(path.name, np.ascontiguousarray(images), tuple(labels))


def _samples(batch: Batch) -> Iterator[Sample]:
    for row, target in enumerate(batch.targets):
        yield Sample(Path(batch.name), str(row), target)


def _file_name(sample: Sample) -> str:
    return f"{sample.path.name}_{int(sample.name):05d}.png"


def _write_png(job: tuple[NDArray[np.uint8], Path]) -> None:
    """Write one picture; Pillow's own writer takes four times as long for one of 3 KB."""
    image, path = job
    rows = np.zeros((SIDE_PX, 1 + 3 * SIDE_PX), np.uint8)  # each row begins with its filter, none
    rows[:, 1:] = image.reshape(SIDE_PX, -1)
    header = struct.pack(">IIBBBBB", SIDE_PX, SIDE_PX, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    path.write_bytes(PNG_MAGIC + b"".join(map(_chunk, chunks)))


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    kind, content = chunk
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def _train_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("data_batch_*") if path.is_file())


def _has_md5(path: Path, md5: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5


def _load(path: Path) -> dict[str, Any]:
    """The dict in a pickle, with names as text, whichever Python wrote them."""
    if path.stat().st_size > MAX_BATCH_BYTES:
        raise DataError(
            f"{str(path)!r} has {path.stat().st_size} bytes, a CIFAR-10 batch has at most {MAX_BATCH_BYTES}"
        )
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{str(path)!r} {error}") from error
    except Exception as error:  # a pickle made to confuse raises anything at all
        raise DataError(f"{str(path)!r} is no pickle of a CIFAR-10 batch ({error}): fetch the set again") from error
    if type(content) is not dict:
        raise DataError(f"{str(path)!r} holds a {type(content).__name__}, expected the dict of a CIFAR-10 batch")
    return {_text(name): _texts(value) for name, value in content.items()}


def _texts(value: object) -> object:
    return [_text(entry) if isinstance(entry, bytes) else entry for entry in value] if type(value) is list else value


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class _Dtype:
    """Stands in for numpy.dtype: remembers its name and does nothing."""

    __slots__ = ("name",)

    def __init__(self, name: object = "", *_: object) -> None:
        self.name = _text(name)

    def __setstate__(self, state: object) -> None:
        """Byte order and the like: of no importance to bytes."""


class _Array:
    """Stands in for numpy.ndarray and what rebuilds one: remembers bytes, type and shape."""

    __slots__ = ("_content", "_dtype", "_is_fortran", "_shape")

    def __init__(self, *arguments: object) -> None:
        # As _frombuffer(content, dtype, shape, order) of protocol 5, or as _reconstruct(ndarray, (0,), b"b") of others.
        is_whole = len(arguments) == 4 and isinstance(arguments[1], _Dtype)
        content, dtype, shape, order = arguments if is_whole else (b"", None, (0,), "C")
        self._set(shape, dtype, order == "F", content)

    def __setstate__(self, state: tuple[object, object, object, object, object]) -> None:
        """State as ndarray.__reduce__ gives it: version, shape, dtype, whether Fortran-ordered, bytes."""
        _, shape, dtype, is_fortran, content = state
        self._set(shape, dtype, bool(is_fortran), content)

    def _set(self, shape: object, dtype: object, is_fortran: bool, content: object) -> None:
        self._shape, self._dtype, self._is_fortran, self._content = shape, dtype, is_fortran, content

    def as_uint8(self) -> NDArray[np.uint8] | None:
        """The array it stands for, or None when that is not one of uint8 with as many bytes as its shape says."""
        is_uint8 = isinstance(self._dtype, _Dtype) and self._dtype.name in {"u1", "|u1", "uint8"}
        content, shape = self._content, self._shape
        if not is_uint8 or not isinstance(content, bytes | bytearray) or not isinstance(shape, tuple):
            return None
        values = np.frombuffer(content, np.uint8)
        if len(shape) != 2 or not all(type(side) is int and side >= 0 for side in shape):
            return None
        if values.size != shape[0] * shape[1]:
            return None
        return values.reshape(shape, order="F" if self._is_fortran else "C")


class _Bytes:
    """Stands in for _codecs.encode, by which protocol 2 of Python 3 writes bytes."""

    __slots__ = ()

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]  # bytes, not itself
        if encoding not in {"latin1", b"latin1"}:
            raise DataError(f"wants the encoding {encoding!r}, which no batch has: it is not loaded")
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        """Without it a pickle could set attributes of the class."""


# All that a batch may name, whichever numpy wrote it, and which class of ours each is: numpy itself is not called.
STAND_INS: Final[dict[tuple[str, str], type]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _Array,
    ("numpy._core.numeric", "_frombuffer"): _Array,
    ("_codecs", "encode"): _Bytes,
}


class _Unpickler(pickle.Unpickler):
    """Makes dicts, lists, numbers, texts, bytes and the stand-ins above; whatever else a pickle names is refused."""

    def find_class(self, module: str, name: str) -> type:
        stand_in = STAND_INS.get((module, name))
        if stand_in is None:
            raise DataError(
                f"wants to call {module}.{name}, which no CIFAR-10 batch does: it may be an attack and is not loaded"
            )
        return stand_in
