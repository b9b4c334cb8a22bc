"""Where a study is kept: a file that survives kills and says what is wrong with it, or a database that may be away."""

import multiprocessing
import os
import signal
import socket
from multiprocessing.connection import Connection
from pathlib import Path

import optuna
import pytest

from components.tune import storage
from components.tune.storage import JOURNAL, answering, is_shared, open_storage, own, without_password
from serving.errors import ConfigError

_CONTEXT = multiprocessing.get_context("spawn")


def begin_study(folder: Path, *, num_trials: int = 3) -> bytes:
    """A journal with some trials; its content."""
    study = optuna.create_study(storage=open_storage(None, folder), study_name="one", load_if_exists=True)
    for number in range(num_trials):
        study.tell(study.ask(), float(number))
    return (folder / JOURNAL).read_bytes()


def num_complete(folder: Path) -> int:
    study = optuna.load_study(study_name="one", storage=open_storage(None, folder))
    return sum(trial.state.is_finished() for trial in study.get_trials())


def test_a_journal_torn_at_any_byte_is_cut_to_its_whole_lines_and_goes_on(tmp_path: Path) -> None:
    content = begin_study(tmp_path)
    start = content.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(start, len(content)):
        (tmp_path / JOURNAL).write_bytes(content[:end])
        assert num_complete(tmp_path) == 2
        assert (tmp_path / JOURNAL).read_bytes() == content[:start]
    begin_study(tmp_path, num_trials=2)
    assert num_complete(tmp_path) == 4


@pytest.mark.parametrize(
    "garbage",
    [b"\0" * 40 + b"\n", b"not JSON\n", b'"text"\n', b'{"op_code": 6}\n', b'{"op_code": 99}\n', b"\xff\xfe\n"],
)
@pytest.mark.parametrize("where", [0, 1, -1])
def test_a_damaged_journal_is_one_sentence(tmp_path: Path, garbage: bytes, where: int) -> None:
    lines = begin_study(tmp_path).splitlines(keepends=True)
    lines[where : where + 1 or None] = [garbage]
    (tmp_path / JOURNAL).write_bytes(b"".join(lines))
    with pytest.raises(ConfigError, match=r"study\.journal' is damaged.*delete it to begin the search anew$") as caught:
        open_storage(None, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_journal_that_cannot_be_read_is_what_the_system_says(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).mkdir()
    with pytest.raises(IsADirectoryError):
        open_storage(None, tmp_path)


def hold(connection: Connection, folder: Path) -> None:
    """Own a folder and its journal's lock until killed."""
    give_up = own(folder)
    lock = storage.FileLock(folder / f"{JOURNAL}.lock")
    lock.acquire()
    connection.send(None)
    connection.recv()
    give_up()


def test_a_second_search_in_the_same_folder_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    begin_study(tmp_path)
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=hold, args=(theirs, tmp_path))
    process.start()
    ours.recv()
    with pytest.raises(ConfigError, match=r"^another search is at work in '.*': wait .* --checkpoint-dir of its own$"):
        own(tmp_path)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    own(tmp_path)()
    begin_study(tmp_path, num_trials=1)  # it would wait for the lock of the journal
    assert num_complete(tmp_path) == 4


def test_a_folder_that_was_given_up_is_free(tmp_path: Path) -> None:
    own(tmp_path)()
    own(tmp_path)()


def test_only_a_database_is_shared(tmp_path: Path) -> None:
    assert not is_shared(open_storage(None, tmp_path))
    assert is_shared(open_storage(f"sqlite:///{tmp_path}/study.db", tmp_path))


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://ann:S3cret@127.0.0.1/kennel", "No module named 'MySQLdb'"),
        ("mysql+pymysql://ann:S3cret@127.0.0.1/kennel", "No module named 'pymysql'"),
        ("oracle7://ann:S3cret@127.0.0.1/kennel", "Can't load plugin: sqlalchemy.dialects:oracle7"),
        ("postgresql://ann:S3cret@127.0.0.1:PORT/kennel", "onnection refused"),
        ("postgres://ann:S3cret@127.0.0.1:PORT/kennel", "onnection refused"),
        ("postgresql+psycopg://ann:S3cret@127.0.0.1:PORT/kennel", "onnection refused"),
        ("postgresql://ann:S3cret@no-such-host.invalid/kennel", "no-such-host.invalid"),
        ("postgresql://ann:S3/cr@et#S3cret@127.0.0.1:PORT/kennel", "has an @ in its password, expected %40"),
        ("postgresql://ann:S3/cr%40et#S3cret@127.0.0.1:PORT/kennel", "onnection refused"),
        ("postgresql://127.0.0.1:PORT/kennel?user=ann&password=S3cret", "onnection refused"),
        ("postgresql://ann:S3cret@127.0.0.1:port/kennel", ""),
        ("postgresql://ann:S3cret@[::1/kennel", ""),
        ("postgresql://", ""),
        ("://", ""),
        ("ann:S3cret@127.0.0.1/kennel", "expected one such as postgresql://USER@HOST/NAME"),
        ("", "expected one such as postgresql://USER@HOST/NAME"),
        ("sqlite:////no/such/folder/study.db", "unable to open database file"),
    ],
)
def test_a_wrong_storage_is_one_sentence_without_the_password(tmp_path: Path, url: str, reason: str) -> None:
    url = url.replace("PORT", str(free_port()))
    with pytest.raises(ConfigError) as caught:
        open_storage(url, tmp_path)
    message = str(caught.value)
    assert message.startswith("--storage ")
    assert reason in message
    assert "S3c" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann@host/name", "postgresql://ann@host/name"),
        ("postgresql://ann:secret@host/name", "postgresql://ann:***@host/name"),
        ("postgresql://ann:a@b/c@host:5432/name", "postgresql://ann:***@host:5432/name"),
        ("postgresql://host/name?password=secret&user=ann", "postgresql://host/name?password=***&user=ann"),
        ("postgresql://ann:@host/name", "postgresql://ann:@host/name"),
        ("sqlite:///study.db", "sqlite:///study.db"),
    ],
)
def test_a_url_is_shown_without_the_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_database_that_stops_answering_is_one_sentence(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(storage=open_storage(url, tmp_path), study_name="one")
    (tmp_path / "study.db").write_bytes(b"no database at all" * 1000)
    expected = r"^--storage sqlite:///.* stopped answering: .*the same command goes on"
    with pytest.raises(ConfigError, match=expected), answering(url):
        study.get_trials()
