"""The bundle: what train writes and serve reads. Whoever has it needs nothing else, no code and no pickle.

    bundle.json         what is in it, and the sha256 of every other file; written last
    model.onnx          uint8 (N, H, W, 3) pixels in, float32 (N, K) logits out; normalisation is inside the graph
    model.onnx.data     its weights, when there are too many for one file
    model.int8.onnx     the same in 8-bit integers, when it lost next to nothing; used only when the operator asks
    activation_map.onnx nodes that, appended to model.onnx, tell where it looked; of networks that can
    model.safetensors   weights, to fine-tune again or to run with torch
    golden.npz          inputs and the logits expected for them: see serving/golden.py
    predictions.csv     the test split: file, label, predicted, probability

A folder without bundle.json is not a bundle: a reader never meets half of one.
"""

import hashlib
import json
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from serving import files
from serving.errors import BundleError

FORMAT_VERSION: Final = 1
MANIFEST: Final = "bundle.json"
ONNX_MODEL: Final = "model.onnx"
ONNX_DATA: Final = "model.onnx.data"
INT8_MODEL: Final = "model.int8.onnx"
ACTIVATION_MAP: Final = "activation_map.onnx"
WEIGHTS: Final = "model.safetensors"
GOLDEN: Final = "golden.npz"
PREDICTIONS: Final = "predictions.csv"
ARCHIVE: Final = "model.tar.gz"

MAX_MANIFEST_BYTES: Final = 16 * 2**20
MAX_UNPACKED_BYTES: Final = 16 * 2**30  # far above any torchvision model; an archive claiming more is a bomb
MAX_ARCHIVE_MEMBERS: Final = 1000
MAX_DESCRIPTION_BYTES: Final = 2**20
DESCRIPTIONS: Final = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
"""Members of an archive that say something of the next one; `tarfile` reads them into memory whole."""

Channel3 = tuple[float, float, float]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputSpec(_Strict):
    """From a picture of any size to the pixels that the network sees; followed by serving/preprocess.py."""

    height: Annotated[int, Field(gt=0, le=4096)]
    width: Annotated[int, Field(gt=0, le=4096)]
    resize: Literal["shorter-side"] = "shorter-side"
    resize_size: Annotated[int, Field(gt=0, le=4096)]
    """Length of the shorter side after resizing, in px; at least height and width."""
    crop: Literal["center"] = "center"
    interpolation: Literal["bilinear"] = "bilinear"
    mean: Channel3
    std: Channel3
    pixel_range: Literal["unit"] = "unit"
    """mean and std are of pixels scaled to 0..1; the graph does both, callers pass 0..255."""
    channel_order: Literal["RGB"] = "RGB"

    @field_validator("resize_size")
    @classmethod
    def _covers_the_crop(cls, value: int, info: Any) -> int:
        if value < max(info.data.get("height", 0), info.data.get("width", 0)):
            raise ValueError("is smaller than the crop")
        return value


class Head(_Strict):
    """The classifier on top of the backbone."""

    kind: Literal["linear", "mlp"]
    hidden: int | None = None
    """Width of the hidden layer of an mlp."""
    dropout: float = 0.0


class EngineMetrics(_Strict):
    """The test split as one engine answers it, through serving/preprocess.py."""

    test_images: int
    """So many of them it was asked."""
    test_accuracy: float
    test_loss: float
    options: dict[str, str]
    """How the engine ran: session options, threads, dtype."""


class Metrics(_Strict):
    """What the model is worth."""

    test_accuracy: float
    """Of the default engine, onnx."""
    valid_accuracy: float
    valid_loss: float
    engines: dict[str, EngineMetrics]


class Calibration(_Strict):
    """How logits become probabilities that mean what they say."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Logits are divided by it before softmax; fitted on the valid split. It changes no order, so no label."""
    ece_before: Annotated[float, Field(ge=0, le=1)] | None = None
    """Expected calibration error on the test split at temperature 1; None where it was not measured."""
    ece_after: Annotated[float, Field(ge=0, le=1)] | None = None
    """The same at `temperature`."""


class FileRecord(_Strict):
    """What a file must be to be the file that was written."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0)]


class Manifest(_Strict):
    """The content of bundle.json."""

    format_version: Literal[1] = FORMAT_VERSION
    architecture: str
    head: Head
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    """Label of each logit, in order."""
    input: InputSpec
    metrics: Metrics
    calibration: Calibration = Calibration()
    hyperparameters: dict[str, str | int | float | bool | None]
    versions: dict[str, str]
    created: str
    """UTC, ISO 8601."""
    files: dict[str, FileRecord] = {}
    sha256: str = ""
    """Of this object without this field: a changed label is as wrong as a changed weight."""

    def digest(self) -> str:
        """What `sha256` has to be."""
        content = json.dumps(self.model_dump(mode="json", exclude={"sha256"}), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @field_validator("labels")
    @classmethod
    def _no_label_twice(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) != len(labels):
            raise ValueError("holds a label twice")
        return labels

    @field_validator("files")
    @classmethod
    def _plain_names(cls, records: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for name in records:
            if PurePosixPath(name).name != name or name in {"", ".", "..", MANIFEST} or "\\" in name:
                raise ValueError(f"names {name!r}, which is not a plain file name")
        return records


@dataclass(frozen=True)
class Bundle:
    """A folder whose every file is the one that was written."""

    folder: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Path of a file of the bundle.

        Raises:
            BundleError: The bundle does not carry it.
        """
        if name not in self.manifest.files:
            raise BundleError(f"bundle in {str(self.folder)!r} carries no {name}, only {sorted(self.manifest.files)}")
        return self.folder / name


def read(folder: Path) -> Bundle:
    """Check a folder against its manifest.

    Raises:
        BundleError: Something is missing, changed, of another version, or not a regular file; names which and why.
    """
    bundle = Bundle(folder, _read_manifest(folder / MANIFEST))
    for name, record in bundle.manifest.files.items():
        _check_file(folder / name, record)
    for required in (ONNX_MODEL, GOLDEN):
        bundle.file(required)
    return bundle


def write(folder: Path, manifest: Manifest, names: list[str]) -> Bundle:
    """Make a bundle of the files `names` that lie in `folder`: hash them, and write the manifest last."""
    records = {name: describe_file(folder / name) for name in names}
    sealed = manifest.model_copy(update={"files": records})
    sealed = sealed.model_copy(update={"sha256": sealed.digest()})
    files.write_text(folder / MANIFEST, sealed.model_dump_json(indent=2) + "\n")
    return read(folder)


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """Read the bundle at `path`: its folder, a `model.tar.gz` of it, or a folder that holds that archive.

    An archive is unpacked into a temporary folder that goes when the block ends.

    Raises:
        BundleError: There is none, or it is not whole.
    """
    if not path.exists():
        raise BundleError(f"there is no bundle at {str(path)!r}: give the folder that train wrote, or its {ARCHIVE}")
    if path.is_dir() and not (path / MANIFEST).exists() and (path / ARCHIVE).is_file():
        path /= ARCHIVE
    if path.is_dir():
        yield read(path)
        return
    if not path.is_file():  # a pipe would be waited for, and every other model behind it
        raise BundleError(
            f"{str(path)!r} is neither a folder nor a file: give the folder that train wrote, or {ARCHIVE}"
        )
    try:
        temporary = tempfile.TemporaryDirectory(prefix="kennel-bundle-")
    except OSError as error:
        raise BundleError(f"cannot unpack {str(path)!r}, no folder for temporary files: {error}") from error
    with temporary as folder:
        unpack(path, Path(folder))
        yield read(Path(folder))


def size_bytes(path: Path) -> int:
    """Of the largest file of the bundle at `path`: its weights, or its archive."""
    files_there = list(path.iterdir()) if path.is_dir() else [path]
    return max((file.stat().st_size for file in files_there if file.is_file()), default=0)


def unpack(archive: Path, into: Path) -> None:
    """Unpack a `model.tar.gz` whose members are plain files at its root, as SageMaker packs a model directory.

    Raises:
        BundleError: Not such an archive; links, folders' files, devices, or more than `MAX_UNPACKED_BYTES` are refused.
    """
    try:
        with tarfile.open(archive, "r:*", tarinfo=_Member) as tar:
            _extract(tar, into)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        # Of what is none at all, tarfile says so in a line for each compression that it knows.
        reason = "it is none, or damaged" if "\n" in str(error) else str(error)
        raise BundleError(
            f"{str(archive)!r} is not a readable tar archive ({reason}): give the folder that train wrote, or {ARCHIVE}"
        ) from error


def describe_file(path: Path) -> FileRecord:
    """Hash and size of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(sha256=digest, size_bytes=path.stat().st_size)


def _read_manifest(path: Path) -> Manifest:
    where = f"bundle in {str(path.parent)!r}"
    if not path.is_file() or path.is_symlink():
        inside = sorted(str(found.parent) for found in path.parent.glob(f"*/{MANIFEST}"))
        hint = f"; give {inside[0]!r}, which is one" if inside else ""
        raise BundleError(f"{where} has no {MANIFEST}: it is not a bundle, or train has not finished writing it{hint}")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{where} has a {MANIFEST} of {path.stat().st_size} bytes, at most {MAX_MANIFEST_BYTES}")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where} has a {MANIFEST} that is not JSON: {error}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{where} has format {version!r}, this version reads {FORMAT_VERSION}: "
            "use the image that wrote it, or train again"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{where} has a {MANIFEST} whose {field} is wrong: {first['msg']}") from error
    if manifest.sha256 != manifest.digest():
        raise BundleError(f"{where} has a {MANIFEST} that does not fit its own sha256: it was changed")
    return manifest


def _check_file(path: Path, record: FileRecord) -> None:
    where = f"bundle file {str(path)!r}"
    try:
        status = os.lstat(path)
    except OSError as error:
        raise BundleError(f"{where} is missing: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{where} is not a regular file")
    if status.st_size != record.size_bytes:
        raise BundleError(f"{where} has {status.st_size} bytes, {MANIFEST} says {record.size_bytes}")
    found = describe_file(path).sha256
    if found != record.sha256:
        raise BundleError(f"{where} has sha256 {found[:12]}…, {MANIFEST} says {record.sha256[:12]}…: it was changed")


class _Member(tarfile.TarInfo):
    """A member whose long name, or other attributes, are not read into memory when they claim gigabytes."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The member of a header.

        Raises:
            BundleError: It describes another member, and at more than `MAX_DESCRIPTION_BYTES`.
        """
        member = super().frombuf(buf, encoding, errors)
        if member.type in DESCRIPTIONS and member.size > MAX_DESCRIPTION_BYTES:
            raise BundleError(
                f"the archive describes a member in {member.size} bytes, expected at most {MAX_DESCRIPTION_BYTES}"
            )
        return member


def _extract(tar: tarfile.TarFile, into: Path) -> None:
    total_bytes = 0
    for count, member in enumerate(tar, start=1):
        name = member.name.removeprefix("./")
        if member.isdir() and name in {"", "."}:
            continue
        if not member.isreg() or PurePosixPath(name).name != name or name in {"", ".", ".."}:
            raise BundleError(f"{str(tar.name)!r} holds {member.name!r}, expected plain files at its root alone")
        total_bytes += member.size
        if total_bytes > MAX_UNPACKED_BYTES or count > MAX_ARCHIVE_MEMBERS:
            raise BundleError(
                f"{str(tar.name)!r} unpacks to over {MAX_UNPACKED_BYTES} bytes or {MAX_ARCHIVE_MEMBERS} files"
            )
        content = tar.extractfile(member)
        assert content is not None  # noqa: S101  # it is a regular file
        # Not tar.extract: owners and modes of the archive are not wanted, and Python 3.11.2 has no filter to drop them.
        with content, (into / name).open("xb") as file:
            shutil.copyfileobj(content, file)
