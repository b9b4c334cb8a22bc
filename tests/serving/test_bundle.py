"""The artifact: what is read, what is refused and in which words."""

import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving import bundle as bundles
from serving.bundle import Bundle
from serving.errors import BundleError
from tests.support.bundles import LABELS, pack, reseal, sealed


def refused(path: Path) -> str:
    """The sentence with which a bundle is refused."""
    with pytest.raises(BundleError) as caught, bundles.opened(path):
        pytest.fail("it was opened")
    return str(caught.value)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / bundles.MANIFEST
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | changes)))


def test_a_bundle_read_again_is_the_one_written(bundle: Bundle) -> None:
    again = bundles.read(bundle.folder)
    assert again == bundle
    assert again.manifest.labels == LABELS
    assert set(again.manifest.files) == {bundles.ONNX_MODEL, bundles.GOLDEN}


def test_a_bundle_opens_from_its_folder_its_archive_and_a_folder_that_holds_the_archive(
    bundle: Bundle, tmp_path: Path
) -> None:
    archive = pack(bundle.folder, tmp_path / bundles.ARCHIVE)
    for path in (bundle.folder, archive, tmp_path):
        with bundles.opened(path) as opened:
            assert opened.manifest == bundle.manifest
            assert opened.file(bundles.ONNX_MODEL).is_file()


def test_the_folder_of_an_unpacked_archive_goes_with_the_block(bundle: Bundle, tmp_path: Path) -> None:
    with bundles.opened(pack(bundle.folder, tmp_path / "model.tar.gz")) as opened:
        folder = opened.folder
    assert folder != bundle.folder
    assert not folder.exists()


def test_members_that_begin_with_a_dot_are_read_as_tar_writes_them(bundle: Bundle, tmp_path: Path) -> None:
    """`tar czf model.tar.gz -C out .` writes `./`, `./bundle.json`."""
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(bundle.folder, arcname=".")
    with bundles.opened(archive) as opened:
        assert opened.manifest == bundle.manifest


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize(
    "member",
    [
        _member("../outside"),
        _member("/absolute"),
        _member("inner/bundle.json"),
        _member("inner", tarfile.DIRTYPE),
        _member("link", tarfile.SYMTYPE, "/etc/passwd"),
        _member("link", tarfile.LNKTYPE, "bundle.json"),
        _member("device", tarfile.CHRTYPE),
        _member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name} {member.type!r}",
)
def test_an_archive_with_anything_but_plain_files_at_its_root_is_refused_and_nothing_is_written(
    bundle: Bundle, tmp_path: Path, member: tarfile.TarInfo
) -> None:
    archive, into = tmp_path / "model.tar.gz", tmp_path / "into"
    into.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(member, io.BytesIO())
    with pytest.raises(BundleError, match="expected plain files at its root"):
        bundles.unpack(archive, into)
    assert list(into.iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_an_archive_that_claims_more_than_any_model_has_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar"
    member = _member("model.onnx")
    member.size = bundles.MAX_UNPACKED_BYTES + 1
    archive.write_bytes(member.tobuf())
    assert "unpacks to over" in refused(archive)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_archive_that_describes_a_member_in_gigabytes_is_refused_before_it_fills_the_memory(
    tmp_path: Path, kind: bytes
) -> None:
    archive = tmp_path / "model.tar.gz"
    member = _member("description", kind)
    member.size = 2**30
    with gzip.open(archive, "wb") as file:
        file.write(member.tobuf())
        file.write(bytes(2**24))
    assert "describes a member in 1073741824 bytes" in refused(archive)


def test_long_names_are_read_as_tar_writes_them(bundle: Bundle, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz", format=tarfile.GNU_FORMAT) as tar:
        for file in bundle.folder.iterdir():
            tar.add(file, arcname=file.name)
        tar.addfile(_member("n" * 200))
    with bundles.opened(archive) as opened:
        assert opened.manifest == bundle.manifest


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "neither a folder nor a file" in refused(tmp_path / "pipe")


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"\x1f\x8b\x08broken"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.tar.gz"
    path.write_bytes(content)
    reason = refused(path)
    assert "is not a readable tar archive (" in reason
    assert reason.endswith("give the folder that train wrote, or model.tar.gz")
    assert "\n" not in reason
    assert "method" not in reason


def test_an_archive_cut_short_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    archive = pack(bundle.folder, tmp_path / "model.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-2000])
    assert str(archive) in refused(archive)


def test_a_folder_around_a_bundle_is_refused_with_the_bundles_own(bundle: Bundle, tmp_path: Path) -> None:
    assert "give" not in refused(tmp_path)
    shutil.copytree(bundle.folder, tmp_path / "model")
    assert refused(tmp_path).endswith(f"; give {str(tmp_path / 'model')!r}, which is one")


def test_a_path_without_anything_is_refused_with_advice(tmp_path: Path) -> None:
    assert "give the folder that train wrote" in refused(tmp_path / "nowhere")


def _replace_by_link(path: Path) -> None:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


def _drop_from_manifest(name: str) -> Callable[[Path], None]:
    def drop(path: Path) -> None:
        content = json.loads((path.parent / bundles.MANIFEST).read_text())
        del content["files"][name]
        edit(path.parent, files=content["files"])

    return drop


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (Path.unlink, "is missing"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "bytes, bundle.json says"),
        (lambda path: path.write_bytes(os.urandom(path.stat().st_size)), "it was changed"),
        (_replace_by_link, "is not a regular file"),
        (_drop_from_manifest(bundles.ONNX_MODEL), "carries no model.onnx"),
        (_drop_from_manifest(bundles.GOLDEN), "carries no golden.npz"),
    ],
)
def test_a_spoilt_file_is_refused_by_name(own_bundle: Path, spoil: Callable[[Path], Any], reason: str) -> None:
    spoil(own_bundle / bundles.ONNX_MODEL)
    sentence = refused(own_bundle)
    assert reason in sentence
    assert str(own_bundle) in sentence


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format_version": 2}, "has format 2, this version reads 1"),
        ({"format_version": None}, "has format None"),
        ({"labels": ["one"]}, "labels is wrong"),
        ({"labels": ["twice", "twice"]}, "holds a label twice"),
        ({"surprise": 1}, "surprise is wrong"),
        ({"input": {}}, "input.height is wrong"),
        ({"files": {"../secret": {"sha256": "0" * 64, "size_bytes": 1}}}, "not a plain file name"),
        ({"files": {"/etc/passwd": {"sha256": "0" * 64, "size_bytes": 1}}}, "not a plain file name"),
        ({"files": {"bundle.json": {"sha256": "0" * 64, "size_bytes": 1}}}, "not a plain file name"),
    ],
)
def test_a_manifest_that_says_what_it_may_not_is_refused(
    own_bundle: Path, changes: dict[str, Any], reason: str
) -> None:
    edit(own_bundle, **changes)
    assert reason in refused(own_bundle)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"[]", b"null"])
def test_a_manifest_that_is_no_manifest_is_refused(own_bundle: Path, content: bytes) -> None:
    (own_bundle / bundles.MANIFEST).write_bytes(content)
    assert "bundle.json" in refused(own_bundle) or "format" in refused(own_bundle)


def test_a_crop_larger_than_the_resized_picture_is_refused(own_bundle: Path) -> None:
    content = json.loads((own_bundle / bundles.MANIFEST).read_text())
    reseal(own_bundle, input=content["input"] | {"resize_size": 10})
    assert "smaller than the crop" in refused(own_bundle)


def test_the_manifest_is_what_makes_a_folder_a_bundle_so_it_comes_last(own_bundle: Path, bundle: Bundle) -> None:
    (own_bundle / bundles.MANIFEST).unlink()
    assert "it is not a bundle" in refused(own_bundle)
    bundles.write(own_bundle, bundle.manifest, [bundles.ONNX_MODEL, bundles.GOLDEN])
    with bundles.opened(own_bundle) as opened:
        assert opened.manifest == bundle.manifest
