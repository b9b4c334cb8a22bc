"""The demo's comparison, on a real server: a demo that cannot fail shows nothing."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.demo import compare
from serving import bundle
from tests.components.train.conftest import Trained
from tests.support.servers import forked_serving


@pytest.fixture(scope="module")
def url(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with forked_serving(trained.bundle.folder, tmp_path_factory.mktemp("demo") / "log") as server:
        yield server.wait_until_ready().url


@pytest.fixture
def recorded(trained: Trained, tmp_path: Path) -> Path:
    """A copy of what train recorded, to be changed."""
    for name in (bundle.PREDICTIONS, bundle.MANIFEST):
        shutil.copy(trained.bundle.folder / name, tmp_path)
    return tmp_path / bundle.PREDICTIONS


def test_the_server_answers_what_train_recorded(trained: Trained, url: str) -> None:
    assert compare(trained.data, trained.bundle.folder, url) == ""


def test_a_label_that_differs_is_found(trained: Trained, url: str, recorded: Path) -> None:
    header, first, *others = recorded.read_text().splitlines()
    name, label, predicted, probability = first.split(",")
    other = next(word for word in trained.bundle.manifest.labels if word != predicted)
    recorded.write_text("\n".join([header, ",".join([name, label, other, probability]), *others]))
    assert compare(trained.data, recorded.parent, url) == (
        f"served and recorded labels differ for 1 images, the first is {name}"
    )


def test_an_image_without_a_record_is_found(trained: Trained, url: str, recorded: Path) -> None:
    recorded.write_text("\n".join(recorded.read_text().splitlines()[:-1]))
    assert "are not the same files" in compare(trained.data, recorded.parent, url)
