import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from components.data import archives
from components.data.archives import is_archive, unpack
from serving.errors import DataError
from tests.support.folders import write_images

FILES = {"train/a/1.jpg": b"one", "train/b/2.jpg": b"two"}


def make_zip(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return path


def make_tar(path: Path, contents: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


MAKERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "a.zip": make_zip,
    "a.tar": make_tar,
    "a.tar.gz": lambda path, contents: make_tar(path, contents, "w:gz"),
    "a.tar.xz": lambda path, contents: make_tar(path, contents, "w:xz"),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", MAKERS)
def test_files_are_written_and_hidden_ones_left_out(tmp_path: Path, into: Path, name: str) -> None:
    hidden = {"__MACOSX/train/a/._1.jpg": b"x", "train/a/.DS_Store": b"x"}
    archive = MAKERS[name](tmp_path / name, FILES | hidden)
    assert is_archive(archive)
    assert unpack(archive, into) == 2
    assert contents(into) == FILES


def test_an_archive_is_known_by_its_content_not_its_name(tmp_path: Path, into: Path) -> None:
    archive = make_zip(tmp_path / "download", FILES)
    assert is_archive(archive)
    assert unpack(archive, into) == 2
    (tmp_path / "page.zip").write_text("<html>")
    assert not is_archive(tmp_path / "page.zip")


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("path", ["../evil", "train/../../evil", "/tmp/evil", "..\\evil", "C:\\evil"])
def test_paths_that_lead_outside_are_refused(tmp_path: Path, into: Path, name: str, path: str) -> None:
    archive = MAKERS[name](tmp_path / name, {path: b"evil"})
    with pytest.raises(DataError, match="leads outside"):
        unpack(archive, into)
    assert not list(tmp_path.rglob("evil"))
    assert contents(into) == {}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, into: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        member = tarfile.TarInfo("train/a/link")
        member.type, member.linkname = kind, "/etc/passwd"
        file.addfile(member)
    with pytest.raises(DataError, match=r"'train/a/link', a link or a device: make it anew with files alone"):
        unpack(tmp_path / "a.tar", into)
    assert not list(into.iterdir())


def test_a_link_in_a_zip_is_refused(tmp_path: Path, into: Path) -> None:
    info = zipfile.ZipInfo("train/a/link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="a link or a device"):
        unpack(tmp_path / "a.zip", into)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_bomb_is_stopped_while_it_grows(
    tmp_path: Path, into: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "ALLOWED_BYTES", 1 << 20)
    archive = MAKERS[name](tmp_path / name, {f"train/{place}": bytes(8 << 20) for place in range(4)})
    assert archive.stat().st_size < 40_000
    with pytest.raises(DataError, match="grows more than 100 times"):
        unpack(archive, into)
    assert sum(map(len, contents(into).values())) < 8 << 20


def test_a_zip_that_lies_about_its_sizes_is_damaged(tmp_path: Path, into: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"big": bytes(1 << 20)})
    archive.write_bytes(archive.read_bytes().replace((1 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(DataError, match="damaged"):
        unpack(archive, into)


@pytest.mark.parametrize("name", MAKERS)
def test_an_archive_that_is_cut_short_is_named_in_one_sentence(tmp_path: Path, into: Path, name: str) -> None:
    data = write_images(tmp_path / "data", per_class=2, splits=("train",))
    archive = MAKERS[name](tmp_path / name, contents(data))
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 3])
    with pytest.raises(DataError, match="damaged or cut short") as caught:
        unpack(archive, into)
    assert str(archive) in str(caught.value)


def test_a_file_that_is_there_twice_is_refused_not_overwritten(tmp_path: Path, into: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for content in (b"1", b"2"):
            member = tarfile.TarInfo("x")
            member.size = 1
            file.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match="'x' twice"):
        unpack(tmp_path / "a.tar", into)
