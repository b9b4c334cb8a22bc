import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from components.data.download import MAX_FAILURES, Remote, download
from serving.errors import ConfigError, DataError
from tests.support.files_server import Files, serving_files

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def served() -> Iterator[Files]:
    with serving_files(a_zip=CONTENT) as files:
        yield files


@pytest.fixture
def pauses() -> list[float]:
    return []


def fetch(served: Files, tmp_path: Path, pauses: list[float], sha256: str = SHA256, size: int | None = None) -> str:
    return download(Remote(f"{served.url}/a.zip", size, sha256), tmp_path / "in" / "a.zip", pause=pauses.append)


def test_a_file_arrives_whole_and_a_second_call_fetches_nothing(
    served: Files, tmp_path: Path, pauses: list[float]
) -> None:
    seen: list[tuple[int, int]] = []
    remote = Remote(f"{served.url}/a.zip", sha256=SHA256)
    path = tmp_path / "in" / "a.zip"
    assert download(remote, path, progress=lambda _, done, total: seen.append((done, total))) == SHA256
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["a.zip"]
    assert seen[-1] == (3, 3)
    assert seen == sorted(seen)
    assert fetch(served, tmp_path, pauses) == SHA256
    assert served.requests == [""]


def test_after_a_break_it_goes_on_where_it_was(served: Files, tmp_path: Path, pauses: list[float]) -> None:
    served.breaks_after = [1_000_000, 500_000]
    assert fetch(served, tmp_path, pauses) == SHA256
    assert (tmp_path / "in" / "a.zip").read_bytes() == CONTENT
    assert served.requests == ["", "bytes=1000000-", "bytes=1500000-"]
    assert pauses == [1.0, 1.0]


def test_what_a_killed_download_left_is_not_fetched_again(served: Files, tmp_path: Path, pauses: list[float]) -> None:
    served.breaks_after = [1_000_000] + [0] * (MAX_FAILURES - 1)
    with pytest.raises(ConfigError, match=r"ended after 1000000 of 3000000 bytes; tried 6 times.* goes on from there"):
        fetch(served, tmp_path, pauses)
    assert not (tmp_path / "in" / "a.zip").exists()
    served.requests.clear()
    assert fetch(served, tmp_path, pauses) == SHA256
    assert served.requests == ["bytes=1000000-"]


def test_a_download_killed_between_its_last_byte_and_its_check_is_only_checked(
    served: Files, tmp_path: Path, pauses: list[float]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.zip.part").write_bytes(CONTENT)
    assert fetch(served, tmp_path, pauses) == SHA256
    assert served.requests == ["bytes=3000000-"]


@pytest.mark.parametrize("has_changed", [True, False])
def test_a_file_that_changed_meanwhile_or_a_server_without_ranges_means_all_of_it_again(
    served: Files, tmp_path: Path, pauses: list[float], has_changed: bool
) -> None:
    served.breaks_after = [1_000_000] + [0] * (MAX_FAILURES - 1)
    with pytest.raises(ConfigError):
        fetch(served, tmp_path, pauses, sha256="")
    other = CONTENT[::-1] if has_changed else CONTENT
    served.contents["/a.zip"] = other
    if has_changed:
        served.etag = '"two"'
    else:
        served.knows_ranges = False
    assert fetch(served, tmp_path, pauses, sha256="") == hashlib.sha256(other).hexdigest()
    assert (tmp_path / "in" / "a.zip").read_bytes() == other


def test_without_etag_and_checksum_nothing_is_pieced_together(
    served: Files, tmp_path: Path, pauses: list[float]
) -> None:
    served.etag, served.breaks_after = None, [1_000_000]
    fetch(served, tmp_path, pauses, sha256="")
    assert served.requests == ["", ""]


def test_wrong_bytes_are_refused_and_deleted(served: Files, tmp_path: Path, pauses: list[float]) -> None:
    served.contents["/a.zip"] = b"<html>moved</html>"
    with pytest.raises(DataError, match=rf"18 bytes with sha256 .*, expected {SHA256}: it is deleted"):
        fetch(served, tmp_path, pauses)
    assert not list((tmp_path / "in").iterdir())


def test_a_file_that_is_there_but_wrong_is_fetched_again(served: Files, tmp_path: Path, pauses: list[float]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.zip").write_bytes(b"torn")
    assert fetch(served, tmp_path, pauses) == SHA256
    assert (tmp_path / "in" / "a.zip").read_bytes() == CONTENT


def test_the_beginning_of_a_checksum_is_compared_where_only_that_is_known(
    served: Files, tmp_path: Path, pauses: list[float]
) -> None:
    assert fetch(served, tmp_path, pauses, sha256=SHA256[:8]) == SHA256
    with pytest.raises(DataError, match="expected 00000000"):
        download(Remote(f"{served.url}/a.zip", sha256="00000000"), tmp_path / "other.zip", pause=pauses.append)


def test_a_busy_server_is_asked_again_with_longer_pauses(served: Files, tmp_path: Path, pauses: list[float]) -> None:
    served.errors = [503, 429, 500]
    assert fetch(served, tmp_path, pauses) == SHA256
    assert pauses == [1.0, 2.0, 4.0]


def test_a_missing_file_is_not_asked_for_again(served: Files, tmp_path: Path, pauses: list[float]) -> None:
    served.errors = [404]
    with pytest.raises(ConfigError, match=r"the server answers 404 Not Found; check the address, or .* MIRROR="):
        fetch(served, tmp_path, pauses)
    assert pauses == []


def test_a_server_that_is_not_there_ends_in_a_sentence(tmp_path: Path, pauses: list[float]) -> None:
    with serving_files() as gone:
        pass
    with pytest.raises(
        ConfigError, match=r"Connection refused.*; tried 6 times. Nothing came. .* MIRROR= names another"
    ):
        fetch(gone, tmp_path, pauses)


def test_a_changed_size_is_logged_where_no_checksum_is_known(
    served: Files, tmp_path: Path, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    fetch(served, tmp_path, pauses, sha256="", size=7)
    assert "a.zip has 3000000 bytes, it used to have 7: it was changed" in caplog.text


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "a.zip"])
def test_only_http_is_spoken(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="expected an address that begins with https://"):
        download(Remote(url), tmp_path / "x")
