"""`make data` and `make weights` against a local server of files and a local S3."""

import hashlib
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from components.aws import upload as upload_module
from components.aws.upload import Address, parse_address, upload
from components.cache import Cache
from components.data import __main__ as data_command
from components.data import cifar, weights
from components.data.download import Remote
from components.data.public import DATASETS
from components.data.sources import open_index
from serving.errors import ConfigError
from tests.support.cifar import write_batches
from tests.support.files_server import Files, serving_files
from tests.support.folders import COLORS, write_images


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of an S3 that has the empty bucket `bucket`; also what the code under test talks to."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    yield client
    for entry in client.list_objects_v2(Bucket="bucket").get("Contents", []):
        client.delete_object(Bucket="bucket", Key=entry["Key"])
    client.delete_bucket(Bucket="bucket")


def keys(client: Any) -> list[str]:
    return [entry["Key"] for entry in client.list_objects_v2(Bucket="bucket").get("Contents", [])]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Files]:
    """The archives of dogs (small) and CIFAR-10 (60 rows)."""
    data = write_images(tmp_path / "made", per_class=3)
    with zipfile.ZipFile(tmp_path / "dogs.zip", "w") as zipped:
        for path in data.rglob("*.jpg"):
            zipped.write(path, Path("dogImages") / path.relative_to(data))
            zipped.writestr(f"__MACOSX/dogImages/{path.relative_to(data)}", b"x")
    images = np.zeros((60, 32, 32, 3), np.uint8)
    batches = write_batches(tmp_path / "made" / "batches", images, [place % 10 for place in range(60)], num_test=20)
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as tar:
        tar.add(batches, arcname=cifar.FOLDER)
    with serving_files() as files:
        files.contents["/dogImages.zip"] = (tmp_path / "dogs.zip").read_bytes()
        files.contents["/cifar-10-python.tar.gz"] = (tmp_path / "c.tar.gz").read_bytes()
        yield files


def make_data(capsys: pytest.CaptureFixture[str], **variables: str) -> tuple[int, str]:
    """Exit code and output of `make data NAME=VALUE ...`."""
    code = data_command.main([], {name.upper(): value for name, value in variables.items()})
    return code, capsys.readouterr().out


def test_dogs_are_fetched_laid_out_and_learnt_from(
    served: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "d" / "dogs"
    half = folder.parent / ".kennel-downloads" / ".aside-dogs" / "train" / "apple" / "of a killed run.jpg"
    half.parent.mkdir(parents=True)
    half.touch()
    code, output = make_data(capsys, dataset="dogs", dir=str(folder), mirror=served.url)
    assert code == 0, output
    sha256 = hashlib.sha256(served.contents["/dogImages.zip"]).hexdigest()
    assert f"sha256 {sha256} (not known beforehand: SHA256= pins it)" in output
    assert "it used to have 1132023110: it was changed" in output
    assert f"components.train --data {folder}" in output
    assert sorted(path.name for path in folder.iterdir()) == [".kennel-data.json", "test", "train", "valid"]
    assert json.loads((folder / ".kennel-data.json").read_text())["sha256"] == sha256
    assert [path.name for path in folder.parent.iterdir()] == ["dogs"], "the archive was kept"
    index = open_index(folder, {}, Cache(tmp_path / "cache"), seed=0)
    assert index.labels == tuple(COLORS)
    assert len(index.splits["train"]) == 9

    code, output = make_data(capsys, dataset="dogs", dir=str(folder), mirror=served.url)
    assert (code, len(served.requests)) == (0, 1), output


def test_a_pinned_hash_refuses_other_bytes(served: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "d" / "dogs"
    code, output = make_data(capsys, dataset="dogs", dir=str(folder), mirror=served.url, sha256="0" * 64)
    assert code == 1
    assert f"expected {'0' * 64}: it is deleted" in output
    assert not folder.exists()


def test_cifar_10_must_be_the_original_and_stays_in_its_batches(
    served: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "d" / "cifar10"
    code, output = make_data(capsys, dataset="cifar10", dir=str(folder), mirror=served.url)
    assert code == 1
    assert f"expected {cifar.ARCHIVE_SHA256}: it is deleted" in output
    own = hashlib.sha256(served.contents["/cifar-10-python.tar.gz"]).hexdigest()
    code, output = make_data(capsys, dataset="cifar10", dir=str(folder), mirror=served.url, sha256=own)
    assert code == 0, output
    assert (folder / cifar.FOLDER / "data_batch_1").is_file()
    assert len(open_index(folder, {}, Cache(tmp_path / "cache"), seed=0).labels) == 10


def test_an_archive_that_is_something_else_leaves_no_folder(
    served: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.contents["/dogImages.zip"] = served.contents["/cifar-10-python.tar.gz"]
    code, output = make_data(capsys, dataset="dogs", dir=str(tmp_path / "d" / "dogs"), mirror=served.url)
    assert code == 1
    assert "dogImages.zip has no folder called train" in output
    assert [path.relative_to(tmp_path / "d").as_posix() for path in (tmp_path / "d").rglob("*")] == [
        ".kennel-downloads",
        ".kennel-downloads/dogImages.zip",
    ]


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("x")
    code, output = make_data(capsys, dataset="digits", dir=str(tmp_path))
    assert code == 1
    assert "was not made by this command: give another as DIR=" in output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_set_that_does_not_exist_is_named_with_those_that_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_data(capsys, dataset="cats") == (
        1,
        'error: DATASET got "cats", expected one of dogs, cifar10, digits\n',
    )
    code, output = make_data(capsys)
    assert code == 1
    assert "--dataset is missing" in output


def test_help_names_every_set(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        data_command.main(["--help"], {})
    shown = " ".join(capsys.readouterr().out.split())
    assert all(name in shown for name in (*DATASETS, "--dir", "--s3", "--mirror", "--sha256"))


def test_a_set_is_uploaded_below_the_prefix_and_only_what_changed_again(
    served: Files, s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "d" / "dogs"
    given = {"dataset": "dogs", "dir": str(folder), "mirror": served.url, "s3": "s3://bucket/sets/dogs/"}
    code, output = make_data(capsys, **given)
    assert code == 0, output
    assert "27 files sent, 0 were there unchanged" in output
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")]
    assert sorted(keys(s3)) == sorted(f"sets/dogs/{name}" for name in names)
    body = s3.get_object(Bucket="bucket", Key=f"sets/dogs/{names[0]}")["Body"].read()
    assert body == (folder / names[0]).read_bytes()
    content = (folder / names[0]).read_bytes()
    (folder / names[0]).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # as long as it was
    code, output = make_data(capsys, **given)
    assert "1 files sent, 26 were there unchanged" in output


@pytest.mark.parametrize("size", [0, 100, 5 * 2**20, 5 * 2**20 + 1, 12 * 2**20])
def test_the_etag_of_any_size_is_known_beforehand(
    s3: Any, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_module, "PART_BYTES", 5 * 2**20)
    path = tmp_path / "file"
    path.write_bytes(np.random.default_rng(size).bytes(size))
    assert upload(path, Address("bucket", "a")).num_sent == 1
    assert s3.head_object(Bucket="bucket", Key="a/file")["ETag"].strip('"') == upload_module.etag_of(path)
    assert upload(path, Address("bucket", "a")).num_sent == 0


def test_where_the_etag_is_no_hash_the_metadata_is_compared(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    upload(path, Address("bucket", ""))
    assert keys(s3) == ["file"]
    monkeypatch.setattr(upload_module, "etag_of", lambda _: "as KMS makes it")
    assert upload(path, Address("bucket", "")).num_sent == 0
    path.write_bytes(b"CONTENT")
    assert upload(path, Address("bucket", "")).num_sent == 1


def test_a_bucket_that_is_not_there_is_one_sentence(s3: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ConfigError, match="cannot upload to s3://absent/x: AWS refuses, NoSuchBucket"):
        upload(tmp_path, Address("absent", "x"))


@pytest.mark.parametrize("text", ["bucket/x", "https://bucket", "s3://", "s3:///x"])
def test_an_address_that_is_none_is_refused_before_anything_is_fetched(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, output = make_data(capsys, dataset="digits", dir=str(tmp_path / "d"), s3=text)
    assert code == 1
    assert "expected an address such as s3://my-bucket/dogs" in output
    assert not (tmp_path / "d").exists()


def test_an_address_is_bucket_and_prefix() -> None:
    assert parse_address("s3://b/c/d/") == Address("b", "c/d")
    assert (str(Address("b", "c/d")), str(Address("b", "")), Address("b", "").key("x")) == ("s3://b/c/d", "s3://b", "x")


def test_every_published_weight_has_a_checksum_and_is_the_one_that_default_means() -> None:
    from torchvision import models

    for arch in models.list_models(models):
        remote = weights.published(arch)
        assert remote.url == models.get_model_weights(arch).DEFAULT.url
        assert len(remote.sha256) in {8, 10}
        assert remote.sha256 in remote.name


def test_weights_are_fetched_under_their_name_and_checked_and_uploaded(
    served: Files, s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"weights"
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    served.contents |= {f"/{name}": content, "/resnet18-f37072fd.pth": content}
    variables = {"ARCH": "resnet18", "DIR": str(tmp_path / "w"), "MIRROR": served.url, "S3": "s3://bucket/weights"}
    assert weights.main([], variables) == 1
    assert "expected f37072fd: it is deleted" in capsys.readouterr().out
    remote = Remote(f"https://published/{name}", sha256=name[9:17])
    monkeypatch.setattr(weights, "published", lambda _: remote)
    assert weights.main([], variables) == 0
    assert (tmp_path / "w" / name).read_bytes() == content
    assert keys(s3) == [f"weights/{name}"]
    assert f"components.train --weights {tmp_path / 'w' / name}" in capsys.readouterr().out


def test_an_architecture_that_does_not_exist_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert weights.main(["--arch", "resnet5"], {}) == 1
    assert 'ARCH got "resnet5", expected one of torchvision\'s architectures, did you mean resnet50?' in (
        capsys.readouterr().out
    )
