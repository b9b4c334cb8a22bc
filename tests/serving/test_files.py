"""Files that appear whole or not at all."""

from pathlib import Path

import pytest

from serving import files


def test_a_file_appears_with_its_content_and_readable_by_everybody(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/file.txt"
    files.write_text(path, "grüße")
    assert path.read_bytes() == "grüße".encode()
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_bytes(path, b"old")
    with pytest.raises(RuntimeError):
        _write_half(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def _write_half(path: Path) -> None:
    with files.written_aside(path) as aside:
        aside.write_bytes(b"half of the ne")
        assert path.read_bytes() == b"old"
        raise RuntimeError


def test_leftovers_of_a_killed_process_are_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / f"{files.ASIDE_PREFIX}x1.onnx").touch()
    (tmp_path / ".hidden").touch()
    files.sweep(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [".hidden"]
