from dataclasses import replace
from pathlib import Path

import numpy as np

from components.report.mistakes import per_class_accuracy, worst_pairs
from components.report.summary import Summary, summary_lines

TARGETS = np.array([0, 0, 1, 1], dtype=np.int64)
PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.2, 0.8]])
SUMMARY = Summary(
    test_accuracy=0.75,
    test_loss=0.41,
    best_epoch=3,
    num_epochs=5,
    images_per_s=612.34,
    epochs_s=60.0,
    waited_s=3.0,
    phases={"decode": 25.0, "train": 60.0, "export": 15.0},
    bundle=Path("out/model"),
    bundle_bytes=45_100_000,
    output=Path("out/model.output"),
    test_images=4,
    classes=per_class_accuracy(["ant", "bee"], TARGETS, PROBABILITIES.argmax(axis=1)),
    pairs=worst_pairs(["ant", "bee"], TARGETS, PROBABILITIES),
)


def test_the_table_says_what_somebody_wants_to_know_who_was_not_there() -> None:
    assert summary_lines(SUMMARY) == [
        "test accuracy     0.7500 (3 of 4 images)",
        "test loss         0.4100",
        "best epoch        3 of 5",
        "wall time         1 min 40 s",
        "  decode                25.0 s    25.0%",
        "  train             1 min 00 s    60.0%",
        "  export                15.0 s    15.0%",
        "images/s          612.3 while training",
        "waiting for data         3.0 s     5.0% of the epochs' time",
        "hardest classes   bee: 50.0% of 2",
        "worst confused    bee taken for ant: 1 of 2",
        "bundle            out/model (45.1 MB)",
        "reports           out/model.output",
    ]


def test_a_hostile_label_stays_on_its_line() -> None:
    pairs = worst_pairs(["\x1b[2J\nfoo", "x" * 200], TARGETS, PROBABILITIES)
    (line,) = [line for line in summary_lines(replace(SUMMARY, pairs=pairs)) if "worst" in line]
    assert line.isprintable()
    assert "x" * 39 + "…" in line
    assert "x" * 40 not in line


def test_nothing_measured_is_no_error() -> None:
    bare = replace(SUMMARY, phases={}, epochs_s=0.0, waited_s=0.0, classes=(), pairs=())
    assert not [line for line in summary_lines(bare) if "nan" in line or "worst" in line]
