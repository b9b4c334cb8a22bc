"""What `make bench-decode` says to a mistake, before it measures."""

from pathlib import Path

import pytest

from tests.bench import decode
from tests.support import images


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was measured: nothing may be."""
    found: list[object] = []
    monkeypatch.setattr(decode, "measure", lambda *given: found.append(given))
    return found


@pytest.mark.parametrize(
    ("flag", "folder", "sentence"),
    [
        ("--images", "", "holds no JPEG, expected a folder of *.jpg"),
        ("--images", "nowhere", "holds no JPEG, expected a folder of *.jpg"),
        ("--model", "nowhere", "there is no bundle at"),
        ("--model", "", "has no bundle.json: it is not a bundle"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_sentence_and_exit_code_1(
    measured: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, folder: str, sentence: str
) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "rex.jpg").write_bytes(images.jpeg())
    given = {"--images": str(photos)} | {flag: str(tmp_path / (folder or "empty"))}
    (tmp_path / "empty").mkdir()
    assert decode.main([word for pair in given.items() for word in pair]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("make bench-decode: ")
    assert sentence in said.err
    assert said.out == ""
    assert measured == []
