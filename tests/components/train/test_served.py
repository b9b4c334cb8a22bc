"""What train recorded is what the server answers: the same pixels, the same engine, over HTTP."""

import csv
from pathlib import Path

import pytest

from serving import bundle
from tests.components.train.conftest import Trained
from tests.support.servers import forked_serving

CLOSE_CALL = 1e-4
"""Two labels this near in probability may change places with the batch they are computed in."""


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_labels_over_http_are_the_recorded_ones_file_by_file(trained: Trained, tmp_path: Path, engine: str) -> None:
    with trained.bundle.file(bundle.PREDICTIONS).open(newline="") as file:
        recorded = list(csv.DictReader(file))
    assert len(recorded) == 24
    close_calls = 0
    with forked_serving(trained.bundle.folder, tmp_path / "log", "--engine", engine) as server:
        server.wait_until_ready()
        for row in recorded:
            best, second, *_ = server.post((trained.data / row["file"]).read_bytes()).json()["predictions"]
            if best["probability"] - second["probability"] < CLOSE_CALL:
                close_calls += 1
                continue
            assert best["label"] == row["predicted"], row["file"]
            assert best["probability"] == pytest.approx(float(row["probability"]), abs=1e-4)
    assert close_calls < len(recorded) / 2
