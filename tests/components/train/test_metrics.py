import json
import re

import numpy as np
import pytest
import torch

from components.train.metrics import (
    METRIC_PATTERNS,
    EpochResult,
    accuracy,
    as_jsonl,
    cross_entropy,
    final_line,
    softmax,
)

RESULT = EpochResult(
    epoch=3,
    train_loss=0.5,
    valid_loss=1.25,
    valid_accuracy=0.871,
    best_valid_loss=0.75,
    lr=0.001,
    seconds=2.0,
    images_per_s=100.0,
    waited_s=0.1,
)


@pytest.mark.parametrize("name", ["train_loss", "valid_loss", "valid_accuracy", "best_valid_loss"])
def test_a_pattern_finds_its_number_once_in_the_epochs_line(name: str) -> None:
    assert re.findall(METRIC_PATTERNS[name], RESULT.line()) == [str(float(f"{getattr(RESULT, name):.6f}")).ljust(
        6 if name == "valid_accuracy" else 8, "0")]  # fmt: skip


def test_patterns_find_their_numbers_in_the_final_line_alone() -> None:
    line = final_line(0.302, 0.922)
    assert re.findall(METRIC_PATTERNS["test_loss"], line) == ["0.302000"]
    assert re.findall(METRIC_PATTERNS["test_accuracy"], line) == ["0.9220"]
    for name in set(METRIC_PATTERNS) - {"test_loss", "test_accuracy"}:
        assert re.findall(METRIC_PATTERNS[name], line) == []


def test_patterns_keep_to_what_sagemaker_takes() -> None:
    assert all(len(pattern) <= 500 and re.compile(pattern).groups == 1 for pattern in METRIC_PATTERNS.values())


def test_the_line_starts_with_the_fields_that_scripts_look_for() -> None:
    assert RESULT.line().startswith(
        "epoch=3 train_loss=0.500000 valid_loss=1.250000 valid_accuracy=0.8710 best_valid_loss="
    )


def test_the_lines_file_holds_an_object_an_epoch() -> None:
    assert [json.loads(line)["epoch"] for line in as_jsonl([RESULT, RESULT]).splitlines()] == [3, 3]


def test_loss_and_probabilities_are_torchs() -> None:
    logits = np.random.default_rng(0).normal(0, 30, (20, 5)).astype(np.float32)
    targets = np.arange(20) % 5
    tensor = torch.from_numpy(logits).double()
    assert cross_entropy(logits, targets) == pytest.approx(
        torch.nn.functional.cross_entropy(tensor, torch.from_numpy(targets)).item(), rel=1e-6
    )
    np.testing.assert_allclose(softmax(logits), tensor.softmax(1).numpy(), atol=1e-7)
    assert accuracy(logits, logits.argmax(1)) == 1.0
