"""What runs on a GPU, on a runner without one: which size is taken, what is filled up, what is cut in pieces."""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from serving.engines.torch_batches import Batches, Step, batch_sizes
from tests.support import images

HEIGHT, WIDTH = 4, 6


class Runner:
    """Answers each picture's first pixel on the CPU, and remembers the sizes that it prepared and ran."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.prepared: list[int] = []
        self.ran: list[int] = []
        self.seen: list[list[int]] = []

    def queue(self) -> AbstractContextManager[object]:
        return nullcontext()

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen.append(pixels[:, 0, 0, 0].tolist())
        return pixels[:, 0, 0].float()

    def prepare(self, step: Step) -> Step:
        step()
        size = len(self.seen[-1])
        self.prepared.append(size)

        def run() -> None:
            self.ran.append(size)
            step()

        return run

    def wait(self) -> None:
        """Nothing is ever under way."""


def make(largest: int) -> tuple[Runner, Batches]:
    runner = Runner()
    return runner, Batches(runner, batch_sizes(largest), (HEIGHT, WIDTH, 3), num_labels=3)


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9]), (24, [1, 2, 4, 8, 16, 24])],
)
def test_sizes_double_up_to_the_largest_which_is_one_of_them(largest: int, sizes: list[int]) -> None:
    assert batch_sizes(largest) == sizes


@pytest.mark.parametrize(
    ("count", "ran"),
    [(1, [1]), (2, [2]), (3, [4]), (5, [6]), (6, [6]), (7, [6, 1]), (9, [6, 4]), (18, [6, 6, 6])],
)
def test_a_batch_takes_the_next_size_and_a_larger_one_pieces_of_the_largest(count: int, ran: list[int]) -> None:
    runner, batches = make(6)
    pixels = np.stack([images.noise(HEIGHT, WIDTH, seed=seed) for seed in range(count)])
    np.testing.assert_array_equal(batches.infer(pixels), pixels[:, 0, 0].astype(np.float32))
    assert runner.ran == ran


def test_every_size_is_prepared_once_the_largest_first() -> None:
    runner, batches = make(8)
    assert runner.prepared == [8, 4, 2, 1]
    batches.infer(np.zeros((3, HEIGHT, WIDTH, 3), np.uint8))
    assert len(runner.prepared) == 4


def test_what_fills_a_batch_up_is_thrown_away() -> None:
    runner, batches = make(4)
    batches.infer(np.full((4, HEIGHT, WIDTH, 3), 9, np.uint8))
    logits = batches.infer(np.full((3, HEIGHT, WIDTH, 3), 5, np.uint8))
    assert runner.seen[-1] == [5, 5, 5, 9]
    np.testing.assert_array_equal(logits, np.full((3, 3), 5, np.float32))


def test_an_answer_stays_when_the_next_batch_is_answered() -> None:
    _, batches = make(2)
    first = batches.infer(np.full((1, HEIGHT, WIDTH, 3), 1, np.uint8))
    batches.infer(np.full((2, HEIGHT, WIDTH, 3), 2, np.uint8))
    assert first.tolist() == [[1, 1, 1]]


def test_pixels_that_do_not_lie_in_a_row_arrive_in_order() -> None:
    _, batches = make(4)
    pixels = np.stack([images.noise(HEIGHT, WIDTH, seed=seed) for seed in range(8)])[::-2]
    np.testing.assert_array_equal(batches.infer(pixels), pixels[:, 0, 0].astype(np.float32))
