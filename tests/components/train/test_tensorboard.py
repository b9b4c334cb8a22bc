from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from components.train.loop import Run, fit
from components.train.plan import Plan
from components.train.sources import PixelSource
from components.train.tensorboard import TensorBoard


def events(folder: Path) -> list[Event]:
    """Records of all event files: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    found = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    return {(v.tag, event.step): v.simple_value for event in events(folder) for v in event.summary.value}


def test_every_epoch_is_written_under_the_names_of_its_measures(
    make_run: Callable[..., Run], pictures: PixelSource, tmp_path: Path
) -> None:
    run = make_run(epochs=2)
    fit(run, pictures, pictures, [TensorBoard(tmp_path)])
    found = scalars(tmp_path)
    for result in run.history:
        assert found["valid_loss", result.epoch] == pytest.approx(result.valid_loss)
        assert found["valid_accuracy", result.epoch] == pytest.approx(result.valid_accuracy)
    assert {step for _, step in found} == {1, 2}


def test_a_run_that_goes_on_tells_tensorboard_where(
    make_run: Callable[..., Run], pictures: PixelSource, tmp_path: Path
) -> None:
    run = make_run(epochs=1)
    fit(run, pictures, pictures, [TensorBoard(tmp_path)])
    run.plan = Plan(epochs=2, batch_size=4, lr=0.001, seed=0)
    fit(run, pictures, pictures, [TensorBoard(tmp_path)])
    starts = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert starts == [1, 2]
    assert {step for _, step in scalars(tmp_path)} == {1, 2}
