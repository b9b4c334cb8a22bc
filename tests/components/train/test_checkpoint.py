import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from components.environment import Stopped, StopSignal
from components.train.checkpoint import KEPT, Checkpoints
from components.train.loop import Observer, Run, fit
from components.train.metrics import EpochResult
from components.train.observers import METRICS_FILE, EarlyStopping, EpochLog, TimeLimit
from components.train.sources import PixelSource, Places

MakeRun = Callable[..., Run]
EPOCHS = 4
IDENTITY = {"--lr": "0.001", "the train split": "a" * 64}


class Killed(Exception):
    """Stands for a SIGKILL: nothing after it runs."""


class KillAt(Observer):
    """Ends the run after a step, in the middle of an epoch or at its end."""

    def __init__(self, epoch: int, batch: int) -> None:
        self._at = (epoch, batch)

    def on_batch(self, run: Run, batch: int, num_batches: int) -> None:
        if (run.epoch, batch) == self._at:
            raise Killed


class Steps(Observer):
    """Notes the epoch and the batch of every step."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def on_step(self, run: Run, batch: int, num_batches: int) -> None:
        self.seen.append((run.epoch, batch))


def attempt(
    make_run: MakeRun,
    pictures: PixelSource,
    folder: Path,
    *others: Observer,
    identity: Mapping[str, str] = IDENTITY,
    interval_s: float = 0.0,
    stop_signal: StopSignal | None = None,
    freeze: bool = True,
    **plan: Any,
) -> Run:
    """Start the run, or go on with it, as a new process would."""
    run = make_run(head="mlp", ema=0.9, freeze=freeze, **{"epochs": EPOCHS} | plan)
    checkpoints = Checkpoints(
        folder, identity, interval_s=interval_s, stop_signal=stop_signal or StopSignal(), facts={"threads": "2"}
    )
    checkpoints.resume(run)
    fit(run, pictures, pictures, [EpochLog(folder), *others, checkpoints])
    return run


@pytest.fixture(scope="module")
def undisturbed(make_run: MakeRun, pictures: PixelSource, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return attempt(make_run, pictures, tmp_path_factory.mktemp("undisturbed"))


def assert_same(run: Run, other: Run) -> None:
    left, right = run.learner.state_dict(), other.learner.state_dict()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    assert all(torch.equal(run.best_state[name], other.best_state[name]) for name in other.best_state)
    assert [result.valid_loss for result in run.history] == [result.valid_loss for result in other.history]
    assert [result.train_loss for result in run.history] == [result.train_loss for result in other.history]


def epochs_in(folder: Path) -> list[str]:
    return [line.split(",")[0] for line in (folder / METRICS_FILE).read_text().splitlines()]


def test_a_killed_run_ends_where_the_undisturbed_one_ends(
    make_run: MakeRun, pictures: PixelSource, tmp_path: Path, undisturbed: Run
) -> None:
    for epoch, batch in ((1, 2), (2, 1), (2, 2), (4, 2)):  # the middle and the end of epochs
        with pytest.raises(Killed):
            attempt(make_run, pictures, tmp_path, KillAt(epoch, batch))
    assert_same(attempt(make_run, pictures, tmp_path), undisturbed)
    assert epochs_in(tmp_path) == [f'{{"epoch": {epoch}' for epoch in range(1, EPOCHS + 1)]


def test_a_network_that_learns_as_a_whole_goes_on_as_well(
    make_run: MakeRun, pictures: PixelSource, tmp_path: Path
) -> None:
    undisturbed = attempt(make_run, pictures, tmp_path / "undisturbed", freeze=False, epochs=2, interval_s=3600)
    with pytest.raises(Killed):
        attempt(make_run, pictures, tmp_path, KillAt(2, 2), freeze=False, epochs=2)
    assert_same(attempt(make_run, pictures, tmp_path, freeze=False, epochs=2), undisturbed)


def test_a_run_goes_on_in_the_middle_of_an_epoch(make_run: MakeRun, pictures: PixelSource, tmp_path: Path) -> None:
    steps = Steps()
    with pytest.raises(Killed):
        attempt(make_run, pictures, tmp_path, KillAt(2, 2))
    attempt(make_run, pictures, tmp_path, steps)
    assert steps.seen[0] == (2, 2)


def test_epochs_after_the_last_checkpoint_are_done_again_and_stand_in_the_metrics_once(
    make_run: MakeRun, pictures: PixelSource, tmp_path: Path, undisturbed: Run
) -> None:
    with pytest.raises(Killed):
        attempt(make_run, pictures, tmp_path, KillAt(3, 2), interval_s=3600)
    assert len(epochs_in(tmp_path)) == 2
    assert_same(attempt(make_run, pictures, tmp_path), undisturbed)
    assert len(epochs_in(tmp_path)) == EPOCHS


def test_a_signal_in_the_middle_of_a_step_saves_after_it_and_stops(
    make_run: MakeRun, pictures: PixelSource, tmp_path: Path, undisturbed: Run
) -> None:
    stop_signal = StopSignal()
    steps = []

    class Signals(Observer):
        def on_backward(self, run: Run, loss: torch.Tensor) -> None:
            if run.epoch == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        def on_step(self, run: Run, batch: int, num_batches: int) -> None:
            steps.append((run.epoch, batch))

    before = signal.signal(signal.SIGTERM, stop_signal.on_signal)
    try:
        with pytest.raises(Stopped):
            attempt(make_run, pictures, tmp_path, Signals(), interval_s=3600, stop_signal=stop_signal)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert steps[-1] == (2, 1)
    (saved,) = tmp_path.glob("*.pt")
    assert saved.name.endswith("-000002-000001.pt")
    assert_same(attempt(make_run, pictures, tmp_path), undisturbed)


def test_a_signal_while_the_epoch_is_validated_saves_the_epoch_and_stops(
    make_run: MakeRun, pictures: PixelSource, tmp_path: Path, undisturbed: Run
) -> None:
    stop_signal = StopSignal()

    class Signals(PixelSource):
        def batch(self, places: Places, epoch: int) -> torch.Tensor:
            if epoch == 0:  # as they are: for validation
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(places, epoch)

    before = signal.signal(signal.SIGTERM, stop_signal.on_signal)
    source = Signals(pictures.pixels, pictures.targets)
    try:
        with pytest.raises(Stopped):
            attempt(make_run, source, tmp_path, interval_s=3600, stop_signal=stop_signal)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [path.name.endswith("-000002-000000.pt") for path in tmp_path.glob("*.pt")] == [True]
    assert_same(attempt(make_run, pictures, tmp_path), undisturbed)


def test_a_signal_outside_training_stops_at_once() -> None:
    with pytest.raises(Stopped):
        StopSignal().on_signal(signal.SIGTERM, None)


def test_a_finished_run_is_not_run_again(make_run: MakeRun, pictures: PixelSource, tmp_path: Path) -> None:
    done = attempt(make_run, pictures, tmp_path, interval_s=3600)
    assert_same(attempt(make_run, pictures, tmp_path, KillAt(EPOCHS + 1, 1)), done)


def test_a_run_that_stopped_early_stays_stopped(make_run: MakeRun, pictures: PixelSource, tmp_path: Path) -> None:
    first = attempt(make_run, pictures, tmp_path, EarlyStopping(2), epochs=50, lr=0.5)
    second = attempt(make_run, pictures, tmp_path, EarlyStopping(2), epochs=50, lr=0.5)
    assert 3 <= len(first.history) < 50
    assert len(second.history) == len(first.history)


def test_a_time_limit_ends_the_epoch_at_once_and_keeps_what_there_is(
    make_run: MakeRun, pictures: PixelSource, tmp_path: Path
) -> None:
    run = attempt(make_run, pictures, tmp_path, TimeLimit(1e-9))
    assert len(run.history) == 1
    assert run.best_state
    assert len(attempt(make_run, pictures, tmp_path).history) == 1


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[: len(whole) // 2], lambda _: b"", lambda _: b"not a checkpoint"]
)
def test_a_torn_checkpoint_is_skipped_with_a_warning_and_the_one_before_it_is_taken(
    make_run: MakeRun,
    pictures: PixelSource,
    tmp_path: Path,
    undisturbed: Run,
    damage: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(Killed):
        attempt(make_run, pictures, tmp_path, KillAt(3, 2))
    older, newest = sorted(tmp_path.glob("*.pt"))
    newest.write_bytes(damage(newest.read_bytes()))
    caplog.set_level("INFO")
    assert_same(attempt(make_run, pictures, tmp_path), undisturbed)
    assert f"{newest} is unreadable and ignored" in caplog.text
    assert f"checkpoint {older}: after 2 of 4 epochs and 0 batches, going on" in caplog.text


def test_only_the_newest_checkpoints_stay(make_run: MakeRun, pictures: PixelSource, tmp_path: Path) -> None:
    attempt(make_run, pictures, tmp_path)
    assert len(list(tmp_path.glob("*.pt"))) == KEPT


def test_a_checkpoint_of_another_run_is_ignored_and_the_log_says_what_differs(
    make_run: MakeRun, pictures: PixelSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    attempt(make_run, pictures, tmp_path, identity={"--lr": "0.5", "the train split": "b" * 64, "--ema": "0.9"})
    with pytest.raises(Killed):
        attempt(make_run, pictures, tmp_path, KillAt(1, 1))
    (line,) = (line for line in caplog.messages if "another run" in line)
    differences = "--ema was 0.9 and is None; --lr was 0.5 and is 0.001; the train split differs"
    assert line.endswith(f"is of another run and ignored: {differences}")


def test_a_longer_run_of_other_settings_in_the_same_folder_does_not_cost_a_run_its_checkpoints(
    make_run: MakeRun, pictures: PixelSource, tmp_path: Path, undisturbed: Run
) -> None:
    longer = attempt(make_run, pictures, tmp_path, identity={"--lr": "0.5"})
    with pytest.raises(Killed):
        attempt(make_run, pictures, tmp_path, KillAt(2, 2))
    steps = Steps()
    assert_same(attempt(make_run, pictures, tmp_path, steps), undisturbed)
    assert steps.seen[0] == (2, 2)
    assert_same(attempt(make_run, pictures, tmp_path, KillAt(1, 1), identity={"--lr": "0.5"}), longer)


def test_of_many_other_runs_the_newest_checkpoints_stay(
    make_run: MakeRun, pictures: PixelSource, tmp_path: Path
) -> None:
    for lr in ("0.1", "0.2", "0.3"):
        attempt(make_run, pictures, tmp_path, identity={"--lr": lr}, epochs=1)
    assert len(list(tmp_path.glob("*.pt"))) == 2 * KEPT


def test_a_torn_checkpoint_does_not_take_the_place_of_a_whole_one(
    make_run: MakeRun, pictures: PixelSource, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        attempt(make_run, pictures, tmp_path, KillAt(3, 2))
    _, torn = sorted(tmp_path.glob("*.pt"))
    torn.rename(torn.with_name(torn.name.replace("000003-000001", "000009-000000"))).write_bytes(b"torn")
    with pytest.raises(Killed):
        attempt(make_run, pictures, tmp_path, KillAt(3, 2))
    assert [path.stem[-13:] for path in sorted(tmp_path.glob("*.pt"))] == ["000003-000000", "000003-000001"]


def test_another_number_of_threads_is_logged_and_not_refused(
    make_run: MakeRun, pictures: PixelSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attempt(make_run, pictures, tmp_path)
    run = make_run(head="mlp", ema=0.9, freeze=True, epochs=EPOCHS)
    Checkpoints(tmp_path, IDENTITY, interval_s=0, stop_signal=StopSignal(), facts={"threads": "7"}).resume(run)
    assert len(run.history) == EPOCHS
    assert "threads is 7 and was 2 before" in caplog.text


def test_what_a_killed_process_left_half_written_is_swept(
    make_run: MakeRun, pictures: PixelSource, tmp_path: Path
) -> None:
    (tmp_path / ".aside-torn.pt").write_bytes(b"half")
    attempt(make_run, pictures, tmp_path, epochs=1)
    assert not (tmp_path / ".aside-torn.pt").exists()


def test_a_checkpoint_that_carries_code_is_not_executed(
    make_run: MakeRun, pictures: PixelSource, tmp_path: Path
) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    with pytest.raises(Killed):
        attempt(make_run, pictures, tmp_path, KillAt(1, 2), epochs=1)
    (saved,) = tmp_path.glob("*.pt")
    torch.save(torch.load(saved, weights_only=True) | {"learner": Payload()}, saved)
    attempt(make_run, pictures, tmp_path, epochs=1)
    assert not (tmp_path / "executed").exists()


def test_early_stopping_counts_epochs_without_improvement(make_run: MakeRun) -> None:
    run, stopping, goes_on = make_run(), EarlyStopping(2), []
    for epoch, loss in enumerate([1.0, 0.8, 0.9, 0.7, 0.7, 0.71], start=1):
        run.history.append(EpochResult(epoch, 1.0, loss, 0.5, loss, 0.1, 1.0, 1.0, 0.0))
        goes_on.append(stopping.on_epoch(run, run.history[-1]))
    assert goes_on == [True, True, True, True, True, False]
