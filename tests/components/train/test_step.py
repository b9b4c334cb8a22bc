import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.train.plan import Plan, balanced_weights, learning_rate
from components.train.sources import Loaded
from components.train.step import Stepper
from components.train.world import World
from serving.errors import ConfigError

TARGETS = torch.tensor([0, 1, 2, 0, 1, 0])


def make_learner() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def batch() -> Loaded:
    inputs = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32))
    return Loaded(np.arange(6), inputs, TARGETS, 0.0)


def step(learner: nn.Module, **plan: Any) -> tuple[float, list[Tensor]]:
    """One step; returns its loss and the gradients that it saw."""
    gradients: list[Tensor] = []

    def keep(_: Tensor) -> None:
        gradients.extend(parameter.grad.clone() for parameter in learner.parameters() if parameter.grad is not None)

    settings = Plan(**{"epochs": 1, "batch_size": 6, "lr": 0.1, "seed": 0} | plan)
    stepper = Stepper(learner, torch.optim.SGD(learner.parameters(), lr=0.1), settings, World())
    loss = stepper.step(batch(), TARGETS, epoch=1, batch=1, lr=0.1, on_backward=keep)
    return loss.item(), gradients


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"label_smoothing": 0.1},
        {"label_weights": (0.5, 1.0, 2.0)},
        {"label_smoothing": 0.1, "label_weights": (1.0, 2.0, 3.0)},
    ],
)
def test_loss_and_gradients_are_torchs(plan: dict[str, Any]) -> None:
    loss, gradients = step(make_learner(), **plan)
    learner = make_learner()
    weights = torch.tensor(plan["label_weights"]) if "label_weights" in plan else None
    expected = nn.functional.cross_entropy(
        learner(batch().inputs), TARGETS, weights, label_smoothing=plan.get("label_smoothing", 0.0)
    )
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    for mine, parameter in zip(gradients, learner.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 100])
def test_pieces_of_a_batch_add_up_to_the_same_step(micro_batch: int) -> None:
    whole_loss, whole = step(make_learner(), label_weights=(0.5, 1.0, 2.0))
    loss, gradients = step(make_learner(), label_weights=(0.5, 1.0, 2.0), micro_batch=micro_batch)
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    for mine, expected in zip(gradients, whole, strict=True):
        torch.testing.assert_close(mine, expected)


class Hungry(nn.Sequential):
    """Runs out of memory over more samples than it can take."""

    can_take = 2

    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) > self.can_take:
            raise torch.OutOfMemoryError("no memory is left")
        outputs: Tensor = super().forward(inputs)  # type: ignore[no-untyped-call]
        return outputs


def test_out_of_memory_means_smaller_pieces_and_the_same_step(caplog: pytest.LogCaptureFixture) -> None:
    _, whole = step(make_learner())
    with caplog.at_level(logging.WARNING):
        _, gradients = step(Hungry(*make_learner()))
    for mine, expected in zip(gradients, whole, strict=True):
        torch.testing.assert_close(mine, expected)
    assert "memory does not hold 6 images at once: from here on 3" in caplog.text
    assert "memory does not hold 3 images at once: from here on 2" in caplog.text


def test_memory_that_does_not_hold_one_image_is_an_error_with_advice() -> None:
    hungry = Hungry(*make_learner())
    hungry.can_take = 0
    with pytest.raises(ConfigError, match=r"memory does not hold 1 images of a step: .*--image-size"):
        step(hungry)


def test_long_gradients_are_shortened() -> None:
    learner = make_learner()
    before = [parameter.detach().clone() for parameter in learner.parameters()]
    step(learner, clip_norm=1e-3)
    moved = torch.cat(
        [(parameter - old).flatten() for parameter, old in zip(learner.parameters(), before, strict=True)]
    )
    assert moved.norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_a_group_takes_its_share_of_the_learning_rate() -> None:
    learner = make_learner()
    groups: list[dict[str, Any]] = [
        {"params": learner[0].parameters(), "factor": 0.1},
        {"params": learner[2].parameters()},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    Stepper(learner, optimizer, Plan(1, 6, 0.5, 0), World()).step(
        batch(), TARGETS, epoch=1, batch=1, lr=0.5, on_backward=lambda _: None
    )
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.5]


def test_balanced_weights_make_every_label_count_the_same() -> None:
    targets = np.array([0] * 6 + [1] * 3 + [2])
    weights = balanced_weights(targets, 3)
    assert [weights[label] * (targets == label).sum() for label in range(3)] == pytest.approx([10 / 3] * 3)


@pytest.mark.parametrize(
    ("schedule", "warmup", "rates"),
    [
        ("constant", 0.0, {0.0: 1.0, 0.5: 1.0, 1.0: 1.0}),
        ("cosine", 0.0, {0.0: 1.0, 0.5: 0.5, 1.0: 0.0}),
        ("cosine", 0.2, {0.0: 0.0, 0.1: 0.5, 0.2: 1.0, 0.6: 0.5, 1.0: 0.0}),
        ("onecycle", 0.0, {0.0: 0.0, 0.15: 0.5, 0.3: 1.0, 0.65: 0.5, 1.0: 0.0}),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule: Any, warmup: float, rates: dict[float, float]) -> None:
    plan = Plan(1, 1, lr=1.0, seed=0, schedule=schedule, warmup=warmup)
    assert [learning_rate(plan, progress) for progress in rates] == pytest.approx(list(rates.values()), abs=1e-9)
