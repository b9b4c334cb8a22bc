"""What many trainings may stand on, and what each of them starts from."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.cache import Cache
from components.environment import Environment
from components.progress import Progress
from components.train.prepare import Prepared, prepare
from components.train.settings import TrainSettings
from components.train.workplace import Workplace
from components.train.world import World
from tests.support.folders import write_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), per_class=4, size=(40, 40))


def made(data: Path, folder: Path, **given: object) -> Prepared:
    settings = TrainSettings.model_validate(
        {"data": data, "image_size": 32, "weights": "none", "duplicates": "keep", **given}
    )
    return prepare(settings, Environment(), Workplace(World(), Cache(folder), Progress(is_quiet=True)))


def weights(module: torch.nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return [tensor.shape for tensor in one] == [tensor.shape for tensor in other] and all(
        torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("freeze", ["backbone", "none"])
def test_a_new_learner_starts_as_a_training_of_its_settings_does(data: Path, tmp_path: Path, freeze: str) -> None:
    prepared = made(data, tmp_path, freeze=freeze)
    for changed in ({}, {"head": "mlp", "hidden": 7}, {"seed": 5}):
        alone = made(data, tmp_path, freeze=freeze, **changed)
        settings = prepared.settings.model_copy(update={**changed})
        learner = prepared.new_learner(settings)
        if freeze == "backbone":
            assert same(weights(learner), weights(alone.learner))
        else:  # a backbone's first weights are of the seed too, so another seed is another foundation
            assert isinstance(learner, type(alone.network))
            assert same(weights(learner.head), weights(alone.network.head))


def test_a_new_learner_can_be_trained_without_a_trace_in_what_the_next_one_starts_from(
    data: Path, tmp_path: Path
) -> None:
    prepared = made(data, tmp_path, freeze="none")
    before = weights(prepared.network)
    learner = prepared.new_learner(prepared.settings)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(1)
    assert same(weights(prepared.network), before)
    assert same(weights(prepared.new_learner(prepared.settings)), before)


def test_the_test_split_is_an_input_only_for_who_asks_for_it(data: Path, tmp_path: Path) -> None:
    settings = TrainSettings(data=data, image_size=32, weights="none")
    workplace = Workplace(World(), Cache(tmp_path), Progress(is_quiet=True))
    assert prepare(settings, Environment(), workplace).inputs.test is None
    assert prepare(settings, Environment(), workplace, with_test=True).inputs.test is not None
