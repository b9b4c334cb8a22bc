"""Downloads one file whole or not at all: goes on where it broke off, tries again, checks what came."""

import hashlib
import http.client
import json
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving import files
from serving.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

CHUNK_BYTES: Final = 1 << 18
TIMEOUT_S: Final = 30.0
MAX_FAILURES: Final = 6
"""In a row, without a byte in between."""
FIRST_PAUSE_S: Final = 1.0
WORTH_ANOTHER_TRY: Final = (408, 425, 429, 500, 502, 503, 504)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Remote:
    """A file to download and what is known of it."""

    url: str
    size_bytes: int | None = None
    sha256: str = ""
    """Of all of it, or how it begins (torchvision's names have eight digits); empty: not known."""

    @property
    def name(self) -> str:
        """Last part of the address."""
        return self.url.partition("?")[0].rpartition("/")[2]


class _Failure(Exception):
    """An attempt that broke off; another may succeed."""


def download(
    remote: Remote,
    path: Path,
    *,
    progress: Progress = lambda *_: None,
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """Download to `path`; what came before a break or a kill is kept beside it as PATH.part and not fetched again.

    A file that is there already is checked and not fetched again.

    Args:
        remote: What to fetch, over http or https.
        path: Where to.
        progress: Told of megabytes.
        pause: Waits so many seconds before another try.

    Returns:
        The file's sha256.

    Raises:
        ConfigError: The address is none, or does not answer after several tries.
        DataError: What came is not what was expected; it is deleted.
    """
    if not remote.url.startswith(("https://", "http://")):
        raise ConfigError(f'cannot download "{remote.url}", expected an address that begins with https://')
    if path.is_file():
        sha256 = _hash(path)
        if sha256.startswith(remote.sha256):
            logger.info("%s is there already", path)
            return sha256
        logger.warning("%s is there but is not what is published (sha256 %s): it is fetched again", path, sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    _fetch_all(remote, part, progress, pause)
    sha256 = _check(remote, part)
    part.replace(path)
    _notes(part).unlink(missing_ok=True)
    return sha256


def _fetch_all(remote: Remote, part: Path, progress: Progress, pause: Callable[[float], None]) -> None:
    failures = 0
    while True:
        before = _size(part)
        try:
            return _fetch(remote, part, progress)
        except _Failure as failure:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= MAX_FAILURES:
                kept = "What came is kept: the same command goes on from there" if _size(part) else "Nothing came"
                raise ConfigError(
                    f"cannot download {remote.url}: {failure}; tried {failures} times. {kept}. Where this source "
                    "cannot be reached, MIRROR= names another"
                ) from failure
            logger.info("%s broke off at %d bytes (%s): trying again", remote.name, _size(part), failure)
            pause(FIRST_PAUSE_S * 2 ** (failures - 1))


def _fetch(remote: Remote, part: Path, progress: Progress) -> None:
    """One attempt, from the end of what is there.

    Raises:
        _Failure: It broke off.
    """
    offset, validator = _size(part), _validator(part)
    headers = {"User-Agent": "kennel", "Accept-Encoding": "identity"}
    # With neither a validator nor a checksum nobody could say whether the rest is of the same file.
    if offset and (validator or remote.sha256):
        headers |= {"Range": f"bytes={offset}-"} | ({"If-Range": validator} if validator else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(remote.url, headers=headers), timeout=TIMEOUT_S) as answer:  # noqa: S310  # checked in download
            start, total = _span(answer, remote)
            if start not in {0, offset}:
                raise _Failure(f"the server sent bytes from {start}, not from {offset}")
            _note(part, answer)
            _receive(answer, part, start, total, remote, progress)
    except urllib.error.HTTPError as error:
        _explain(error, remote, part)
    except (OSError, http.client.HTTPException) as error:
        raise _Failure(str(getattr(error, "reason", "")) or str(error) or type(error).__name__) from error


def _receive(
    answer: http.client.HTTPResponse, part: Path, start: int, total: int | None, remote: Remote, progress: Progress
) -> None:
    done = start
    with part.open("ab" if start else "wb") as file:
        while chunk := answer.read(CHUNK_BYTES):
            done += len(chunk)
            if total is not None and done > total:
                raise _Failure(f"the server sent more than the {total} bytes it announced")
            file.write(chunk)
            progress(f"download {remote.name} (MB)", done // 10**6, max(total or done, 1) // 10**6)
    if total is not None and done < total:
        raise _Failure(f"the connection ended after {done} of {total} bytes")


def _span(answer: http.client.HTTPResponse, remote: Remote) -> tuple[int, int | None]:
    """First byte of the answer and size of the whole file."""
    length = answer.headers.get("Content-Length")
    if answer.status != 206:
        return 0, int(length) if length else remote.size_bytes
    span = re.match(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if span is None:
        raise _Failure("the server's answer does not say which bytes it has")
    return int(span[1]), int(span[2]) if span[2] != "*" else remote.size_bytes


def _explain(error: urllib.error.HTTPError, remote: Remote, part: Path) -> None:
    error.close()
    if error.code == 416:  # nothing after the end of what is there: it is whole, or another file's
        if remote.size_bytes == _size(part) or error.headers.get("Content-Range") == f"bytes */{_size(part)}":
            return
        part.unlink(missing_ok=True)
        raise _Failure("what was there is not of this file")
    if error.code in WORTH_ANOTHER_TRY:
        raise _Failure(f"the server answers {error.code} {error.reason}")
    raise ConfigError(
        f"cannot download {remote.url}: the server answers {error.code} {error.reason}; check the address, or give "
        "another with MIRROR="
    ) from error


def _check(remote: Remote, part: Path) -> str:
    sha256, size_bytes = _hash(part), _size(part)
    if remote.sha256 and not sha256.startswith(remote.sha256):
        part.unlink()
        _notes(part).unlink(missing_ok=True)
        raise DataError(
            f"{remote.url} gave a file of {size_bytes} bytes with sha256 {sha256}, expected {remote.sha256}: it is "
            "deleted; try again, and if it comes again do not use this source"
        )
    if not remote.sha256 and remote.size_bytes is not None and size_bytes != remote.size_bytes:
        logger.warning(
            "%s has %d bytes, it used to have %d: it was changed", remote.name, size_bytes, remote.size_bytes
        )
    return sha256


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _notes(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _note(part: Path, answer: http.client.HTTPResponse) -> None:
    """Remember which version of the file this is; a weak ETag does not tell one byte from another."""
    etag = answer.headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")
    files.write_text(_notes(part), json.dumps({"validator": validator}))


def _validator(part: Path) -> str:
    try:
        return str(json.loads(_notes(part).read_text())["validator"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
