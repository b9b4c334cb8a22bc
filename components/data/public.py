"""The public data sets that Kennel's presets learn from: downloaded, checked, laid out as a folder train reads."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from components.data import cifar
from components.data.archives import unpack
from components.data.digits import write_digits
from components.data.download import Remote, download
from components.data.splits import by_spelling, subfolders
from serving import files
from serving.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

MARKER: Final = ".kennel-data.json"
"""Written into a folder that was laid out here: what it holds and the hash of what it was made from."""
DOWNLOADS: Final = ".kennel-downloads"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Dataset:
    """A public data set."""

    what: str
    remote: Remote | None
    """None: it comes with scikit-learn."""
    lay_out: Callable[[Path, Path, Progress], int]
    """Makes a folder (second) of the download (first); returns the number of files."""
    flags: str
    """Of a training that suits it."""


def _lay_out_dogs(archive: Path, folder: Path, progress: Progress) -> int:
    count = unpack(archive, folder, progress)
    inner = [folder, *subfolders(folder)]
    found = next(
        (place for place in inner if "train" in by_spelling({path.name: path for path in subfolders(place)})), None
    )
    if found is None:
        raise DataError(f"{archive.name} has no folder called train: it is not the set of dog images")
    if found != folder:
        for path in found.iterdir():
            path.rename(folder / path.name)
        found.rmdir()
    return count


def _lay_out_cifar10(archive: Path, folder: Path, progress: Progress) -> int:
    # The batches as they are, which train reads: 8 files to upload, where the images would be 60,000.
    count = unpack(archive, folder, progress)
    if not cifar.is_batches(folder / cifar.FOLDER):
        raise DataError(f"{archive.name} has no folder {cifar.FOLDER}: it is not CIFAR-10 in its python version")
    cifar.check_original(folder / cifar.FOLDER)
    return count


def _lay_out_digits(_archive: Path, folder: Path, _progress: Progress) -> int:
    return write_digits(folder)


DATASETS: Final = {
    "dogs": Dataset(
        "8,351 photographs of 133 breeds of dogs, train, valid and test (1.1 GB)",
        # Nobody publishes a checksum. The size is what wget printed for users in 2022; a changed size is logged, and
        # SHA256= pins the hash that the first download prints.
        Remote("https://s3-us-west-1.amazonaws.com/udacity-aind/dog-project/dogImages.zip", size_bytes=1_132_023_110),
        _lay_out_dogs,
        "--preset dogs-resnet50",
    ),
    "cifar10": Dataset(
        "CIFAR-10: 60,000 images of 32 x 32 px in 10 classes, as python batches (170 MB)",
        Remote(f"https://www.cs.toronto.edu/~kriz/{cifar.ARCHIVE}", cifar.ARCHIVE_BYTES, cifar.ARCHIVE_SHA256),
        _lay_out_cifar10,
        "--preset cifar10-resnet18 --image-size 64",
    ),
    "digits": Dataset(
        "1,797 handwritten digits that come with scikit-learn, train, valid and test",
        None,
        _lay_out_digits,
        "--weights none --freeze none --image-size 32",
    ),
}


def get_dataset(
    name: str, folder: Path, *, mirror: str = "", sha256: str = "", progress: Progress = lambda *_: None
) -> Path:
    """Make `folder` hold a public data set, laid out for `train --data`; does nothing when it does already.

    The folder appears whole or not at all. The download is kept beside it, in `.kennel-downloads`, until then.

    Args:
        name: One of `DATASETS`.
        folder: New, empty, or made by this function.
        mirror: Address of a folder that has the file under its own name, instead of the published address.
        sha256: What the download must have, instead of what is known of it.
        progress: Told of megabytes.

    Raises:
        ConfigError: No such set; the folder holds something else; the address does not answer.
        DataError: What came is not the set.
    """
    dataset = DATASETS.get(name)
    if dataset is None:
        raise ConfigError(f'DATASET got "{name}", expected one of {", ".join(DATASETS)}')
    if _holds(folder, name):
        logger.info("%s holds %s already", folder, name)
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{str(folder)!r} is there and was not made by this command: give another as DIR=, or move it"
        )
    archive, facts = Path(), {"dataset": name}
    if dataset.remote is not None:
        remote = moved(dataset.remote, mirror, sha256)
        archive = _workshop(folder) / remote.name
        facts |= {"url": remote.url, "sha256": download(remote, archive, progress=progress)}
        known = "checked" if remote.sha256 else "not known beforehand: SHA256= pins it"
        logger.info("%s: %d bytes, sha256 %s (%s)", remote.name, archive.stat().st_size, facts["sha256"], known)
    _lay_out(dataset, archive, folder, facts, progress)
    if dataset.remote is not None:
        archive.unlink()
    if not any(_workshop(folder).iterdir()):
        _workshop(folder).rmdir()
    return folder


def moved(remote: Remote, mirror: str, sha256: str) -> Remote:
    """The same file at a mirror, or with a checksum that the user vouches for."""
    url = f"{mirror.rstrip('/')}/{remote.name}" if mirror else remote.url
    return replace(remote, url=url, sha256=sha256.lower() or remote.sha256)


def _holds(folder: Path, name: str) -> bool:
    try:
        return bool(json.loads((folder / MARKER).read_text())["dataset"] == name)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _workshop(folder: Path) -> Path:
    return folder.absolute().parent / DOWNLOADS


def _lay_out(dataset: Dataset, archive: Path, folder: Path, facts: dict[str, str], progress: Progress) -> None:
    aside = _workshop(folder) / f"{files.ASIDE_PREFIX}{folder.name}"
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
    aside.mkdir(parents=True)
    try:
        count = dataset.lay_out(archive, aside, progress)
        files.write_text(aside / MARKER, json.dumps({**facts, "files": count}, indent=2) + "\n")
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    logger.info("%s: %d files", folder, count)
