import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from components.train import loop
from components.train.loop import Observer, Run, fit
from components.train.metrics import EpochResult
from components.train.plan import batches
from components.train.sources import PixelSource
from components.train.world import World
from serving.errors import ConfigError, UserError

MakeRun = Callable[..., Run]


def test_the_loss_falls_on_a_handful_of_pictures(make_run: MakeRun, pictures: PixelSource) -> None:
    run = make_run(epochs=12, lr=0.003, batch_size=8)
    fit(run, pictures, pictures, [])
    assert run.history[-1].train_loss < run.history[0].train_loss / 5


def test_another_seed_draws_another_order(make_run: MakeRun, pictures: PixelSource) -> None:
    runs = [make_run(epochs=1, seed=seed) for seed in (0, 0, 1)]
    for run in runs:
        fit(run, pictures, pictures, [])
    first, same, other = (run.history[0].train_loss for run in runs)
    assert first == same != other


def test_every_parameter_gets_a_gradient(make_run: MakeRun, pictures: PixelSource) -> None:
    without: set[str] = set()

    class Gradients(Observer):
        def on_backward(self, run: Run, loss: Tensor) -> None:
            without.update(
                name
                for name, parameter in run.learner.named_parameters()
                if parameter.grad is None or not parameter.grad.any()
            )

    fit(make_run(epochs=1, batch_size=8), pictures, pictures, [Gradients()])
    assert without == set()


def test_a_frozen_backbone_does_not_move_nor_do_its_batch_statistics(make_run: MakeRun, pictures: PixelSource) -> None:
    run = make_run(freeze=True, head="mlp")
    before = {name: tensor.clone() for name, tensor in run.learner.state_dict().items()}
    fit(run, pictures, pictures, [])
    moved = {name for name, tensor in run.learner.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {f"body.fc.{layer}.{kind}" for layer in (0, 3) for kind in ("weight", "bias")}


def test_a_fully_trained_network_is_in_training_mode_and_a_frozen_one_in_its_head_alone(
    make_run: MakeRun, pictures: PixelSource
) -> None:
    class Modes(Observer):
        def on_backward(self, run: Run, loss: Tensor) -> None:
            self.training = {name for name, module in run.learner.named_modules() if module.training and name}

    full, frozen = Modes(), Modes()
    fit(make_run(epochs=1), pictures, pictures, [full])
    fit(make_run(epochs=1, freeze=True, head="mlp"), pictures, pictures, [frozen])
    assert "body.layer1.0.bn1" in full.training
    assert {name for name in frozen.training if name.startswith("body.fc")} == {
        f"body.fc{end}" for end in ("", ".0", ".1", ".2", ".3")
    }
    assert "body.bn1" not in frozen.training


def test_observers_are_called_in_order(make_run: MakeRun, pictures: PixelSource) -> None:
    calls: list[str] = []

    class Recorder(Observer):
        def on_start(self, run: Run) -> None:
            calls.append("start")

        def on_batch(self, run: Run, batch: int, num_batches: int) -> None:
            calls.append(f"batch {batch}/{num_batches}")

        def on_backward(self, run: Run, loss: Tensor) -> None:
            assert loss.item() > 0
            calls.append("backward")

        def on_step(self, run: Run, batch: int, num_batches: int) -> None:
            calls.append(f"step {batch}/{num_batches}")

        def on_epoch(self, run: Run, result: EpochResult) -> bool:
            assert run.history[-1] is result
            calls.append(f"epoch {result.epoch}")
            return True

        def on_end(self, run: Run) -> None:
            calls.append("end")

    fit(make_run(epochs=1, batch_size=4), pictures, pictures, [Recorder()])
    assert calls == [
        "start", "batch 1/2", "backward", "step 1/2", "batch 2/2", "backward", "step 2/2", "epoch 1", "end",
    ]  # fmt: skip


def test_an_observer_that_asks_to_stop_stops_and_every_other_still_sees_the_epoch(
    make_run: MakeRun, pictures: PixelSource
) -> None:
    seen: list[int] = []

    class Stop(Observer):
        def on_epoch(self, run: Run, result: EpochResult) -> bool:
            return result.epoch < 2

    class See(Observer):
        def on_epoch(self, run: Run, result: EpochResult) -> bool:
            seen.append(result.epoch)
            return True

    fit(make_run(epochs=5), pictures, pictures, [Stop(), See()])
    assert seen == [1, 2]


def test_observers_hear_of_the_end_also_after_an_error(make_run: MakeRun, pictures: PixelSource) -> None:
    class Breaks(Observer):
        ended = False

        def on_backward(self, run: Run, loss: Tensor) -> None:
            raise RuntimeError("broken")

        def on_end(self, run: Run) -> None:
            self.ended = True

    observer = Breaks()
    with pytest.raises(RuntimeError, match="broken"):
        fit(make_run(), pictures, pictures, [observer])
    assert observer.ended


def test_the_best_epoch_is_the_one_that_is_kept(make_run: MakeRun, pictures: PixelSource) -> None:
    states: list[dict[str, Tensor]] = []

    class Keep(Observer):
        def on_epoch(self, run: Run, result: EpochResult) -> bool:
            states.append({name: tensor.clone() for name, tensor in run.learner.state_dict().items()})
            return True

    run = make_run(epochs=6, lr=0.01)
    fit(run, pictures, pictures, [Keep()])
    losses = [result.valid_loss for result in run.history]
    best = states[int(np.argmin(losses))]
    assert all(torch.equal(run.best_state[name], best[name]) for name in run.best_state)
    assert [result.best_valid_loss for result in run.history] == np.minimum.accumulate(losses).tolist()


def test_the_learning_rate_falls_along_a_cosine_from_batch_to_batch(make_run: MakeRun, pictures: PixelSource) -> None:
    rates: list[float] = []

    class Rates(Observer):
        def on_step(self, run: Run, batch: int, num_batches: int) -> None:
            rates.append(run.optimizer.param_groups[0]["lr"])

    fit(make_run(epochs=2, batch_size=4, lr=0.1), pictures, pictures, [Rates()])
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * done / 4)) / 2 for done in range(4)])


def test_a_loss_that_is_not_finite_stops_with_the_rate_to_lower(make_run: MakeRun, pictures: PixelSource) -> None:
    with pytest.raises(UserError, match="diverged, use a --lr below"):
        fit(make_run(epochs=3, lr=1e30), pictures, pictures, [])


def test_batches_of_one_picture_cannot_train_batch_statistics(make_run: MakeRun, pictures: PixelSource) -> None:
    with pytest.raises(ConfigError, match="batches of one image cannot train batch normalisation"):
        fit(make_run(batch_size=1), pictures, pictures, [])


@pytest.mark.parametrize(
    ("count", "size", "lengths"),
    [
        (8, 4, [4, 4]),
        (7, 4, [4, 3]),
        (9, 4, [4, 5]),
        (3, 4, [3]),
        (1, 4, [1]),
        (3, 1, [1, 1, 1]),
        (5, 5, [5]),
        (6, 5, [6]),
    ],
)
def test_batches_hold_every_sample_once_and_none_alone(count: int, size: int, lengths: list[int]) -> None:
    cut = list(batches(np.arange(count), size))
    assert [len(part) for part in cut] == lengths
    assert np.concatenate(cut).tolist() == list(range(count))


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_processes_share_a_batch_and_none_gets_a_sample_alone(count: int) -> None:
    shares = [loop._shares([np.arange(count)], World(rank=rank, size=2))[0] for rank in range(2)]
    assert len(shares[0]) == len(shares[1]) >= 2
    interleaved = np.stack(shares, axis=1).ravel()  # what comes behind the first `count` does not count in the loss
    assert interleaved[:count].tolist() == list(range(count))
