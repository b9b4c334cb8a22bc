"""Unpacks zip and tar archives that come from anywhere: files alone, inside the folder, no more than they may grow."""

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from components.data.splits import is_hidden
from serving.errors import DataError

SUFFIXES: Final = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_GROWTH: Final = 100
"""Pictures hardly compress; a bomb grows a thousandfold and more."""
ALLOWED_BYTES: Final = 1 << 30
"""What any archive may hold, however small it is."""
MAX_MEMBERS: Final = 20_000_000
CHUNK_BYTES: Final = 1 << 20

# "ustar" stands in every tar made since 1988; of the compressed ones the compression's own mark is looked for.
MAGIC: Final = {b"PK\x03\x04": 0, b"PK\x05\x06": 0, b"\x1f\x8b": 0, b"BZh": 0, b"\xfd7zXZ\x00": 0, b"ustar": 257}
ZIP_MAGIC: Final = (b"PK\x03\x04", b"PK\x05\x06")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Member:
    name: str
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """Whether the content of a file, not its name, is that of an archive."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(512)
    return any(head[place : place + len(magic)] == magic for magic, place in MAGIC.items())


def stem_of(path: Path) -> str:
    """Name without the suffixes of an archive: `train` of `train.tar.gz`."""
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


def unpack(archive: Path, folder: Path, progress: Progress = lambda *_: None) -> int:
    """Write an archive's files below `folder`, which must be empty; hidden ones are left out.

    Owners, modes and times of the archive are not taken over.

    Args:
        archive: zip, tar, or tar compressed by gzip, bzip2 or xz.
        folder: Where to.
        progress: Told of megabytes unpacked and of how many there are (of a compressed tar: of the archive's).

    Returns:
        The number of files.

    Raises:
        DataError: Not an archive, damaged, encrypted, a bomb, or it has a link, a device, or a path that leads outside;
            the disk is full. What was written until then stays in `folder`.
    """
    size_bytes = archive.stat().st_size
    budget_bytes = ALLOWED_BYTES + MAX_GROWTH * size_bytes
    count = written_bytes = 0
    with _explained(archive), archive.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        for member in _of_zip(archive, file) if head in ZIP_MAGIC else _of_tar(archive, file):
            parts = _safe_parts(archive, member.name)
            if any(is_hidden(Path(part)) for part in parts):
                continue
            count += 1
            if count > MAX_MEMBERS:
                raise DataError(f"archive {str(archive)!r} has over {MAX_MEMBERS} files: unpack it yourself")
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            written_bytes += _write(archive, member, target, budget_bytes - written_bytes)
            progress(f"unpack {archive.name} (MB read)", file.tell() // 10**6, max(1, size_bytes // 10**6))
    return count


def _write(archive: Path, member: _Member, target: Path, budget_bytes: int) -> int:
    written_bytes = 0
    try:
        with target.open("xb") as output, member.open() as content:
            while chunk := content.read(CHUNK_BYTES):
                written_bytes += len(chunk)
                if written_bytes > budget_bytes:  # counted, not read from the header, which may lie
                    raise DataError(
                        f"archive {str(archive)!r} grows more than {MAX_GROWTH} times as it is unpacked, which no "
                        "pictures do: unpack it yourself if you trust it"
                    )
                output.write(chunk)
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(f"archive {str(archive)!r} has {member.name!r} twice: make it anew") from error
    return written_bytes


def _of_zip(archive: Path, file: IO[bytes]) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as zipped:
        for info in zipped.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise _not_a_file(archive, info.filename)
            if info.flag_bits & 0x1:
                raise DataError(f"archive {str(archive)!r} is encrypted: unpack it yourself")
            if not info.is_dir():
                yield _Member(info.filename, lambda info=info: zipped.open(info))  # type: ignore[misc]


def _of_tar(archive: Path, file: IO[bytes]) -> Iterator[_Member]:
    with tarfile.open(fileobj=file, mode="r:*") as tar:
        for member in tar:
            if member.isdir():
                continue
            if not member.isreg():
                raise _not_a_file(archive, member.name)

            def opened(member: tarfile.TarInfo = member) -> IO[bytes]:
                content = tar.extractfile(member)
                assert content is not None  # noqa: S101  # it is a regular file
                return content

            yield _Member(member.name, opened)


def _safe_parts(archive: Path, name: str) -> tuple[str, ...]:
    # Windows' separators and drives count too: an archive made there means folders by them.
    plain = name.replace("\\", "/")
    path = PurePosixPath(plain)
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[:1] or "\0" in plain or plain[1:2] == ":":
        raise DataError(f"archive {str(archive)!r} has the path {name!r}, which leads outside: make it anew")
    if not path.parts:
        raise DataError(f"archive {str(archive)!r} has a file without a name: make it anew")
    return path.parts


def _not_a_file(archive: Path, name: str) -> DataError:
    return DataError(
        f"archive {str(archive)!r} has {name!r}, a link or a device: make it anew with files alone (tar --dereference)"
    )


@contextmanager
def _explained(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise DataError(
            f"archive {str(archive)!r} is damaged or cut short, or is none: {error}; fetch it again"
        ) from error
    except (NotImplementedError, RuntimeError) as error:  # zipfile's words for methods it does not know
        raise DataError(f"archive {str(archive)!r} cannot be unpacked here: {error}; unpack it yourself") from error
    except OSError as error:
        free_gb = shutil.disk_usage(archive.parent).free / 1e9
        reason = f"{error.strerror or error} ({free_gb:.1f} GB are free beside it)"
        raise DataError(f"archive {str(archive)!r} cannot be unpacked: {reason}") from error
