"""Uploads files to S3, only those that are not there as they are here."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from components.aws.session import explained, open_session
from serving.errors import ConfigError

if TYPE_CHECKING:
    from boto3.s3.transfer import TransferConfig

logger = logging.getLogger(__name__)

PART_BYTES: Final = 16 * 2**20
"""Larger files go up in parts of this size; S3's ETag is then the hash of the parts' hashes."""
THREADS: Final = 16
HASH_KEY: Final = "sha256"
"""Metadata of every object sent: with KMS encryption the ETag is no hash of the content."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Address:
    """A place in S3."""

    bucket: str
    prefix: str
    """Empty, or without a slash at either end."""

    def key(self, name: str) -> str:
        """Key of a file called `name`."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def __str__(self) -> str:
        """As users write it."""
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


@dataclass(frozen=True)
class Outcome:
    """What was done."""

    num_sent: int
    num_unchanged: int


def parse_address(text: str) -> Address:
    """`s3://bucket/prefix`.

    Raises:
        ConfigError: It is something else.
    """
    bucket, _, prefix = text.removeprefix("s3://").partition("/")
    if not text.startswith("s3://") or not bucket:
        raise ConfigError(f'S3 got "{text}", expected an address such as s3://my-bucket/dogs')
    return Address(bucket, prefix.strip("/"))


def upload(source: Path, target: Address, progress: Progress = lambda *_: None) -> Outcome:
    """Upload a file, or the files below a folder but the hidden ones, under their paths.

    A file is sent unless an object of the same size and content is there; nothing is deleted. An upload that was
    stopped goes on where it was.

    Args:
        source: What to upload.
        target: Where to.
        progress: Told of files.

    Raises:
        ConfigError: No credentials, no such bucket, or AWS refuses.
    """
    from boto3.exceptions import Boto3Error
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    paths = {source.name: source} if source.is_file() else dict(_below(source))
    config = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, use_threads=False)
    with explained(f"upload to {target}"):
        client: Any = open_session().client("s3", config=Config(max_pool_connections=THREADS))
        there = _list(client, target)
        sender = _Sender(client, target, there, config)
        num_sent = 0
        with ThreadPoolExecutor(THREADS) as pool:
            try:
                for done, was_sent in enumerate(pool.map(sender.send, paths.items()), start=1):
                    num_sent += was_sent
                    progress(f"upload to {target}", done, len(paths))
            except Boto3Error as error:
                raise ConfigError(f"cannot upload to {target}: {error}") from error
            finally:
                pool.shutdown(cancel_futures=True)
    outcome = Outcome(num_sent, len(paths) - num_sent)
    logger.info("%s: %d files sent, %d were there unchanged", target, outcome.num_sent, outcome.num_unchanged)
    return outcome


@dataclass(frozen=True)
class _Sender:
    client: Any
    target: Address
    there: dict[str, tuple[int, str]]
    config: "TransferConfig"

    def send(self, item: tuple[str, Path]) -> bool:
        """Whether the file had to be sent."""
        key, path = self.target.key(item[0]), item[1]
        size_bytes, etag = self.there.get(key, (-1, ""))
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if size_bytes == path.stat().st_size and (etag == etag_of(path) or self._has_hash(key, sha256)):
            return False
        extra = {"Metadata": {HASH_KEY: sha256}}
        self.client.upload_file(str(path), self.target.bucket, key, ExtraArgs=extra, Config=self.config)
        return True

    def _has_hash(self, key: str, sha256: str) -> bool:
        found = self.client.head_object(Bucket=self.target.bucket, Key=key).get("Metadata", {})
        return bool(found.get(HASH_KEY) == sha256)


def etag_of(path: Path) -> str:
    """What S3 calls an object with the content of this file, uploaded in parts of `PART_BYTES`, without KMS.

    Source: S3 user guide, "Checking object integrity", the ETag of single and of multipart uploads.
    """
    digests = []
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            digests.append(hashlib.md5(part, usedforsecurity=False).digest())
    if path.stat().st_size < PART_BYTES:
        return digests[0].hex() if digests else hashlib.md5(b"", usedforsecurity=False).hexdigest()
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


def _below(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix(), path


def _list(client: Any, target: Address) -> dict[str, tuple[int, str]]:
    """Size and ETag of what is there, by key."""
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=target.bucket, Prefix=f"{target.prefix}/" if target.prefix else ""
    )
    return {
        entry["Key"]: (entry["Size"], entry["ETag"].strip('"')) for page in pages for entry in page.get("Contents", [])
    }
