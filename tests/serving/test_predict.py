"""`python -m serving.predict`, as a person types it."""

import csv
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.bundle import Bundle
from serving.engines import TOLERANCE, Logits, open_engine
from serving.errors import ConfigError, DataError, EngineError
from serving.flags import Layer, resolve
from serving.predict import PredictSettings, main, run
from serving.preprocess import Pixels, preprocess
from serving.scoring import Scorer, find_items, report, unreadable_path
from tests.serving.test_main import BLOCK, python
from tests.support.bundles import LABELS, SPEC, pack, write_bundle
from tests.support.images import jpeg
from tests.support.servers import ROOT, Server, clean_environment, wait_for

Row = dict[str, str]


class Fake:
    """What every engine has."""

    name = "onnx"
    tolerance = TOLERANCE

    @property
    def options(self) -> dict[str, str]:
        return {}


def predict(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return python("-m", "serving.predict", *map(str, arguments))


def rows(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fill(folder: Path, *names: str) -> Path:
    """Different JPEGs under these names."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(seed=seed))
    return folder


def said(bundle: Bundle, path: Path) -> str:
    """The label that the engine gives a file alone."""
    pixels = preprocess(path.read_bytes(), SPEC)
    return bundle.manifest.labels[int(open_engine("onnx", bundle, 1).infer(pixels[None]).argmax())]


@pytest.fixture
def images(bundle: Bundle, tmp_path: Path) -> Path:
    """Ten files, two in a folder of each of five labels."""
    return fill(tmp_path / "images", *(f"{label}/{number}.jpg" for label in LABELS[:5] for number in range(2)))


@pytest.fixture
def scorer(bundle: Bundle) -> Scorer:
    return Scorer(bundle.manifest, open_engine("onnx", bundle, 1), batch_size=4, top_k=3)


def test_a_folder_for_each_label_is_scored_and_every_number_is_right(
    bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    done = predict("--model", bundle.folder, "--images", images, "--output", tmp_path / "out.csv", "--batch-size", "3")
    assert done.returncode == 0, done.stderr
    written = rows(tmp_path / "out.csv")
    names = [path.relative_to(images).as_posix() for path in sorted(images.rglob("*.jpg"))]
    assert [row["file"] for row in written] == names
    assert [row["label"] for row in written] == [name.split("/")[0] for name in names]
    assert [row["predicted"] for row in written] == [said(bundle, images / name) for name in names]
    correct = sum(row["predicted"] == row["label"] for row in written)
    assert f"accuracy={correct / 10:.4f} ({correct} of 10)" in done.stdout.splitlines()
    of_bee = [row["predicted"] == "bee" for row in written if row["label"] == "bee"]
    (line,) = [line.split() for line in done.stdout.splitlines() if line.startswith("bee ")]
    assert line == ["bee", "2", str(sum(of_bee)), f"{sum(of_bee) / 2:.4f}"]


def test_rows_say_what_the_server_answers(server: Server, bundle: Bundle, images: Path, tmp_path: Path) -> None:
    run(PredictSettings(model=bundle.folder, images=images, output=tmp_path / "out.csv", top_k=3))
    for row in rows(tmp_path / "out.csv"):
        answer = server.post((images / row["file"]).read_bytes()).json()["predictions"]
        assert [row["predicted"], row["predicted_2"], row["predicted_3"]] == [entry["label"] for entry in answer[:3]]
        assert float(row["probability"]) == pytest.approx(answer[0]["probability"], abs=1e-5)


def test_probabilities_fall_along_a_row_and_more_labels_than_there_are_means_all(
    bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    run(PredictSettings(model=bundle.folder, images=images, output=tmp_path / "out.csv", top_k=99))
    for row in rows(tmp_path / "out.csv"):
        shares = [float(row["probability"])] + [float(row[f"probability_{place}"]) for place in range(2, 8)]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert "predicted_8" not in row


def test_batch_size_changes_no_row(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    for size in (1, 3, 64):
        run(PredictSettings(model=bundle.folder, images=images, output=tmp_path / f"{size}.csv", batch_size=size))
    assert (tmp_path / "1.csv").read_text() == (tmp_path / "3.csv").read_text() == (tmp_path / "64.csv").read_text()


def test_a_folder_of_files_has_no_labels_and_no_accuracy(bundle: Bundle, tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "b.jpg", "a.jpg", "holiday/c.jpg")
    done = predict("--model", bundle.folder, "--images", images, "--output", tmp_path / "out.csv")
    assert done.returncode == 0
    assert [row["file"] for row in rows(tmp_path / "out.csv")] == ["a.jpg", "b.jpg", "holiday/c.jpg"]
    assert "label" not in rows(tmp_path / "out.csv")[0]
    assert "accuracy=" not in done.stdout
    assert "no folder in" in done.stderr


def test_of_a_folder_of_splits_the_test_split_is_scored(bundle: Bundle, tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "test/ant/1.jpg", "train/ant/1.jpg", "test/bee/deep/1.jpg", "valid/bee/1.jpg")
    items = find_items(images, LABELS)
    assert [(item.name, item.label) for item in items] == [("test/ant/1.jpg", "ant"), ("test/bee/deep/1.jpg", "bee")]


def test_a_label_may_be_called_test(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "test/ant/1.jpg", "rest/1.jpg")
    assert [item.label for item in find_items(images, ["test", "rest"])] == ["rest", "test"]


def test_images_in_a_folder_of_another_name_have_rows_but_do_not_count(
    scorer: Scorer, images: Path, tmp_path: Path
) -> None:
    fill(images, "unicorn/1.jpg", "loose.jpg")
    scores = scorer.score(images, tmp_path / "out.csv")
    assert scores.num_images.total() == 10
    assert scores.num_scored == 12
    assert {row["file"]: row["label"] for row in rows(tmp_path / "out.csv")}.items() >= {
        ("unicorn/1.jpg", "unicorn"),
        ("loose.jpg", ""),
    }
    assert any("1 images lie in folders that are no label" in line for line in report(scores, tmp_path / "out.csv"))


def test_unreadable_files_are_listed_and_skipped_and_hidden_ones_are_not_looked_at(
    bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    (images / "ant" / "broken.jpg").write_bytes(jpeg()[:1500])
    (images / "ant" / "notes\x1b[2J.txt").write_text("not a picture")
    (images / "ant" / "empty.jpg").touch()
    (images / "ant" / ".DS_Store").write_text("hidden")
    (images / "bee" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(images / "ant" / "pipe.jpg")  # reading it would never end
    output = tmp_path / "out.csv"
    done = predict("--model", bundle.folder, "--images", images, "--output", output)
    assert done.returncode == 0
    assert len(rows(output)) == 10
    listed = {row["file"]: row["reason"] for row in rows(unreadable_path(output))}
    broken = {"ant/broken.jpg", "ant/notes\x1b[2J.txt", "ant/empty.jpg", "ant/pipe.jpg", "bee/gone.jpg"}
    assert set(listed) == broken
    assert "damaged" in listed["ant/broken.jpg"]
    assert listed["ant/pipe.jpg"] == "it is not a regular file"
    assert listed["bee/gone.jpg"] == "No such file or directory"
    assert "unreadable=5" in done.stdout
    assert "ant/broken.jpg" in done.stderr
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_list_of_an_earlier_run_goes_and_its_files_are_no_images(
    scorer: Scorer, images: Path, tmp_path: Path
) -> None:
    output = images / "out.csv"
    (images / "ant" / "broken.jpg").write_bytes(b"no picture")
    assert scorer.score(images, output).unreadable
    (images / "ant" / "broken.jpg").unlink()
    assert scorer.score(images, output).unreadable == []
    assert not unreadable_path(output).exists()


def test_a_file_name_that_is_no_utf8_has_its_row(scorer: Scorer, tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "a.jpg")
    (images / "a.jpg").rename(images / os.fsdecode(b'caf\xe9, "x".jpg'))
    scorer.score(images, tmp_path / "out.csv")
    assert [row["file"] for row in rows(tmp_path / "out.csv")] == ['caf\\udce9, "x".jpg']


def test_a_link_in_circles_is_walked_once(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "ant/1.jpg")
    (images / "ant" / "up").symlink_to(images)
    assert [item.name for item in find_items(images, LABELS)] == ["ant/1.jpg"]


def test_decoding_goes_on_while_the_engine_runs_and_not_far_ahead(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first batch is in the engine the next is decoded, but not the hundred images after it."""
    images = fill(tmp_path / "images", *(f"{number:03}.jpg" for number in range(40)))
    decoded: list[bytes] = []
    during: list[int] = []

    def decode(data: bytes, spec: object) -> Pixels:
        decoded.append(data)
        return np.zeros((SPEC.height, SPEC.width, 3), np.uint8)

    class Watching(Fake):
        def infer(self, pixels: Pixels) -> Logits:
            before = 4 * (len(during) + 1)
            expected = min(before + 4, 40)
            wait_for(lambda: len(decoded) >= expected, "the next batch to be decoded")
            during.append(len(decoded) - before)
            return np.zeros((len(pixels), len(LABELS)), np.float32)

    monkeypatch.setattr("serving.scoring.preprocess", decode)
    Scorer(bundle.manifest, Watching(), batch_size=4, top_k=1).score(images, tmp_path / "out.csv")
    assert len(during) == 10
    assert max(during) <= 8


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--images", "."], "--model is missing"),
        (["--model", "m", "--images", "/nowhere"], "'/nowhere' does not exist, expected a folder of images"),
        (["--model", "m", "--images", "README.md"], "'README.md' is a file, expected a folder of images"),
        (["--model", "/nowhere", "--images", "."], "there is no bundle at '/nowhere'"),
        (["--model", "m", "--images", ".", "--output", "tests"], "'tests' is a folder, expected a file"),
        (["--model", "m", "--images", ".", "--batch-size", "0"], '--batch-size got "0", expected a whole number'),
        (["--modle", "m"], "--modle is not a flag of python -m serving.predict, did you mean --model?"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_1(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], own_signals: None
) -> None:
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1


def test_help_and_mistakes_come_without_loading_anything_slow() -> None:
    script = BLOCK.replace('"serving", run_name', '"serving.predict", run_name')
    done = python("-c", script.format(blocked=[], arguments=["--help"]))
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    assert "usage: python -m serving.predict" in done.stdout
    assert not {"torch", "onnxruntime", "numpy", "PIL", "fastapi"} & loaded


def test_a_bundle_that_answers_otherwise_than_expected_scores_nothing(
    own_bundle: Path, images: Path, tmp_path: Path
) -> None:
    from tests.support.bundles import reseal, write_model

    write_model(own_bundle / "model.onnx", seed=7, num_labels=len(LABELS))
    reseal(own_bundle)
    done = predict("--model", own_bundle, "--images", images, "--output", tmp_path / "out.csv")
    assert done.returncode == 1
    assert "golden inputs" in done.stderr
    assert not (tmp_path / "out.csv").exists()


def test_an_archive_as_sagemaker_packs_it_is_scored(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    archive = pack(bundle.folder, tmp_path / "model.tar.gz")
    run(PredictSettings(model=archive, images=images, output=tmp_path / "out.csv"))
    assert len(rows(tmp_path / "out.csv")) == 10


def test_the_8_bit_engine_scores_as_well(images: Path, tmp_path: Path) -> None:
    rounded = write_bundle(tmp_path / "rounded", with_int8=True)
    given = {"model": rounded.folder, "images": images, "engine": "onnx-int8", "output": tmp_path / "out.csv"}
    run(resolve(PredictSettings, [Layer("flag", {name: str(value) for name, value in given.items()})]))
    assert len(rows(tmp_path / "out.csv")) == 10


@pytest.mark.parametrize("content", [[], ["notes.txt"]])
def test_a_folder_without_an_image_is_an_error_and_writes_nothing(
    content: list[str], scorer: Scorer, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in content:
        (folder / name).write_text("no picture")
    with pytest.raises(DataError, match=r"no file in|none of the 1 files"):
        scorer.score(folder, tmp_path / "out.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_an_engine_that_fails_leaves_the_old_file_as_it_was(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    class Failing(Fake):
        def infer(self, pixels: Pixels) -> Logits:
            raise EngineError("out of memory")

    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(EngineError):
        Scorer(bundle.manifest, Failing(), batch_size=2, top_k=1).score(images, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "old"
    assert not list(tmp_path.glob(".aside-*"))


def test_an_output_that_cannot_be_written_is_said_before_anything_is_scored(bundle: Bundle, images: Path) -> None:
    with pytest.raises(ConfigError, match=r"--output '/proc/nowhere/out\.csv' cannot be written"):
        run(PredictSettings(model=bundle.folder, images=images, output=Path("/proc/nowhere/out.csv")))


@pytest.fixture
def own_signals() -> Iterator[None]:
    """What `main` does to signals ends with the test."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def terminal() -> Iterator[tuple[int, Callable[[], str]]]:
    """The slave's descriptor of a terminal, and what was written to it since."""
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    text = bytearray()

    def read() -> str:
        try:
            while chunk := os.read(master, 65536):
                text.extend(chunk)
        except OSError:  # nothing more at the moment
            pass
        return text.decode()

    yield slave, read
    os.close(slave)
    os.close(master)


def test_on_a_terminal_the_progress_is_shown_and_a_stop_leaves_nothing(
    bundle: Bundle, tmp_path: Path, terminal: tuple[int, Callable[[], str]]
) -> None:
    slave, read = terminal
    picture = jpeg(600, 800)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(4000):
        (images / f"{number}.jpg").hardlink_to(images / "0.jpg") if number else (images / "0.jpg").write_bytes(picture)
    command = [sys.executable, "-m", "serving.predict", "--model", str(bundle.folder), "--images", str(images)]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path / "out.csv")], cwd=ROOT, env=clean_environment(), stderr=slave
    )
    try:
        wait_for(lambda: " of 4000 files, " in read() and " s left" in read(), "the progress on the terminal")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.wait()
    assert "stopped, nothing was written" in read()
    assert "Traceback" not in read()
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
