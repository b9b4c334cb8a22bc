"""Bundles made to harm, or spoilt on the way: never served, the log says why, and nothing is written beside them."""

import gzip
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving import bundle as bundles
from serving.bundle import Bundle
from tests.support import images
from tests.support.bundles import LABELS, pack, reseal, sealed, write_model
from tests.support.figures import RecordFigure
from tests.support.servers import forked_serving, wait_for


@pytest.fixture(scope="module")
def refusals(record_figure: RecordFigure) -> Iterator[list[str]]:
    """Takes the line of log of each."""
    lines: list[str] = []
    yield lines
    record_figure(f"{len(lines)} bundles spoilt or made to harm: refused with the reason, nothing written outside")


def refused(path: Path, folder: Path) -> str:
    """The line of log with which a real server refuses a bundle, having written nothing in `folder` but its log."""
    temporary = folder / "temporary"
    temporary.mkdir()
    log = folder / "log"
    log.touch()
    before = listing(folder)
    with forked_serving(path, log, TMPDIR=str(temporary)) as server:
        line = wait_for(lambda: re.search(r"ERROR .*", server.log), "an error in the log")[0]
        assert "Traceback" not in server.log
        for answer in (server.ping(), server.post(images.jpeg())):
            assert (answer.status_code, answer.json()["error"]) == (503, "not_ready")
            assert str(folder) not in answer.text
        assert server.stop() == 0
    assert listing(folder) == before
    return line


def listing(folder: Path) -> dict[str, int | None]:
    """Everything below a folder: its size, or None for what is no file; the size of the log does not count."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        if path.is_file() and not path.is_symlink() and path.name != "log"
        else None
        for path in sorted(folder.rglob("*"))
    }


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def tamper(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_link(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("elsewhere")))


def swap_two_labels(path: Path) -> None:
    content = json.loads(path.read_text())
    content["labels"] = [content["labels"][1], content["labels"][0], *content["labels"][2:]]
    path.write_text(json.dumps(content))


def change(**fields: Any) -> Callable[[Path], None]:
    """Of the manifest, which then fits its own hash."""

    def spoil(path: Path) -> None:
        manifest = path.with_name(bundles.MANIFEST)
        manifest.write_text(json.dumps(sealed(json.loads(manifest.read_text()) | fields)))

    return spoil


def swap_the_model_and_seal_again(path: Path) -> None:
    write_model(path, seed=99, num_labels=len(LABELS))
    reseal(path.parent)


def expect_otherwise(path: Path) -> None:
    """Golden logits that do not hold."""
    with np.load(path) as arrays:
        content = dict(arrays)
    content["logits_onnx"] = content["logits_onnx"] * 1.01
    np.savez(path, **content)
    reseal(path.parent)


def not_a_graph(path: Path) -> None:
    path.write_bytes(b"\x08\x09\x12\x04none")
    reseal(path.parent)


SPOILT: Final = [
    (remove, bundles.ONNX_MODEL, "is missing"),
    (truncate, bundles.ONNX_MODEL, r"has \d+ bytes, bundle.json says \d+"),
    (tamper, bundles.ONNX_MODEL, "it was changed"),
    (tamper, bundles.GOLDEN, "it was changed"),
    (replace_by_link, bundles.ONNX_MODEL, "is not a regular file"),
    (remove, bundles.MANIFEST, "is not a bundle"),
    (truncate, bundles.MANIFEST, "is not JSON"),
    (swap_two_labels, bundles.MANIFEST, "does not fit its own sha256"),
    (change(format_version=2), bundles.MANIFEST, "has format 2, this version reads 1"),
    (
        change(files={"../log": {"sha256": "0" * 64, "size_bytes": 1}}),
        bundles.MANIFEST,
        r"'../log', which is not a plain file name",
    ),
    (
        change(files={bundles.ONNX_MODEL: {"sha256": "0" * 64, "size_bytes": 2**60}}),
        bundles.ONNX_MODEL,
        r"has \d+ bytes, bundle.json says 1152921504606846976",
    ),
    (swap_the_model_and_seal_again, bundles.ONNX_MODEL, "do not belong together"),
    (expect_otherwise, bundles.GOLDEN, "do not belong together"),
    (not_a_graph, bundles.ONNX_MODEL, "is not a model that ONNX Runtime loads"),
]


@pytest.mark.parametrize(("spoil", "name", "reason"), SPOILT)
def test_a_spoilt_bundle_keeps_ping_at_503_for_good_and_the_log_says_which_file_and_why(
    own_bundle: Path, tmp_path: Path, refusals: list[str], spoil: Callable[[Path], None], name: str, reason: str
) -> None:
    spoil(own_bundle / name)
    line = refused(own_bundle, tmp_path)
    refusals.append(line)
    assert re.search(reason, line)
    assert str(own_bundle) in line or "golden" in line
    assert name in line or "golden" in line or "has format" in line


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0
) -> Callable[[Path], tarfile.TarInfo]:
    """Of an archive that lies in a folder; `{}` in names is that folder."""

    def make(folder: Path) -> tarfile.TarInfo:
        made = tarfile.TarInfo(name.format(folder))
        made.type, made.linkname, made.size = kind, link.format(folder), size
        return made

    return make


HARMFUL: Final = {
    "a path upwards": (member("../planted"), "expected plain files at its root alone"),
    "a path upwards inside": (member("inner/../../planted"), "expected plain files at its root alone"),
    "an absolute path": (member("{}/planted"), "expected plain files at its root alone"),
    "a folder": (member("inner", tarfile.DIRTYPE), "expected plain files at its root alone"),
    "a symbolic link": (member("model.onnx", tarfile.SYMTYPE, "/etc/passwd"), "expected plain files at its root alone"),
    "a link to the folder above": (member("up", tarfile.SYMTYPE, ".."), "expected plain files at its root alone"),
    "a hard link": (member("model.onnx", tarfile.LNKTYPE, "{}/log"), "expected plain files at its root alone"),
    "a device": (member("model.onnx", tarfile.CHRTYPE), "expected plain files at its root alone"),
    "a disk": (member("model.onnx", tarfile.BLKTYPE), "expected plain files at its root alone"),
    "a pipe": (member("model.onnx", tarfile.FIFOTYPE), "expected plain files at its root alone"),
    "a file of 2^62 bytes": (member("model.onnx", size=2**62), "unpacks to over"),
    "a name of a gigabyte": (member("name", tarfile.GNUTYPE_LONGNAME, size=2**30), "describes a member in 1073741824"),
    "attributes of a gigabyte": (member("a", tarfile.XHDTYPE, size=2**30), "describes a member in 1073741824 bytes"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_an_archive_made_to_harm_is_refused_and_nothing_is_written_outside(
    bundle: Bundle, tmp_path: Path, refusals: list[str], name: str
) -> None:
    make, reason = HARMFUL[name]
    archive = tmp_path / "model.tar.gz"
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for file in sorted(bundle.folder.iterdir()):
            tar.add(file, arcname=file.name)
    archive.write_bytes(gzip.compress(make(tmp_path).tobuf(tarfile.GNU_FORMAT) + whole.getvalue()))
    refusals.append(refused(archive, tmp_path))
    assert re.search(reason, refusals[-1])


def test_an_archive_cut_short_is_refused(bundle: Bundle, tmp_path: Path, refusals: list[str]) -> None:
    archive = pack(bundle.folder, tmp_path / "model.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-2000])
    refusals.append(refused(archive, tmp_path))
    assert str(archive) in refusals[-1]


def keep_outside(model: onnx.ModelProto, location: str) -> bytes:
    """Let the graph's last weights lie in another file; what they are."""
    tensor = next(weights for weights in model.graph.initializer if weights.name == "bias")
    content = numpy_helper.to_array(tensor).tobytes()
    leave(tensor, location, len(content))
    return content


def keep_a_constant_outside(model: onnx.ModelProto, location: str) -> bytes:
    """The same, of a node's attribute."""
    tensor = next(weights for weights in model.graph.initializer if weights.name == "bias")
    content = numpy_helper.to_array(tensor).tobytes()
    model.graph.initializer.remove(tensor)
    leave(tensor, location, len(content))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["bias"], name="node_bias", value=tensor))
    return content


def leave(tensor: TensorProto, location: str, size_bytes: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(size_bytes))):
        tensor.external_data.add(key=key, value=value)


@pytest.mark.parametrize("keep", [keep_outside, keep_a_constant_outside])
@pytest.mark.parametrize(
    "location", ["../secret", "{}/secret", "x/../../secret", "link", "../../../../../../etc/passwd"]
)
def test_a_graph_that_reads_files_outside_of_its_bundle_is_refused(
    own_bundle: Path, tmp_path: Path, refusals: list[str], location: str, keep: Callable[[onnx.ModelProto, str], bytes]
) -> None:
    """The manifest fits and the golden logits would hold: only the engine can notice."""
    model = onnx.load(own_bundle / bundles.ONNX_MODEL)
    (tmp_path / "secret").write_bytes(keep(model, location.format(tmp_path)))
    (own_bundle / "link").symlink_to(tmp_path / "secret")
    (own_bundle / bundles.ONNX_MODEL).write_bytes(model.SerializeToString())
    reseal(own_bundle)
    refusals.append(refused(own_bundle, tmp_path))
    assert "model.onnx' is not a model that ONNX Runtime loads: " in refusals[-1]


@pytest.mark.parametrize("keep", [keep_outside, keep_a_constant_outside])
def test_the_same_graph_is_served_when_the_file_lies_in_its_bundle(
    own_bundle: Path, tmp_path: Path, keep: Callable[[onnx.ModelProto, str], bytes]
) -> None:
    """Else it would be refused for another reason."""
    model = onnx.load(own_bundle / bundles.ONNX_MODEL)
    (own_bundle / bundles.ONNX_DATA).write_bytes(keep(model, bundles.ONNX_DATA))
    (own_bundle / bundles.ONNX_MODEL).write_bytes(model.SerializeToString())
    reseal(own_bundle)
    with forked_serving(own_bundle, tmp_path / "log") as server:
        server.wait_until_ready()
        assert server.post(images.jpeg()).status_code == 200
