import pytest
import torch
from torch import nn
from torchvision import models

from components.model import Freeze, input_spec, last_stage, make_network, parameter_groups, set_training
from serving.bundle import Head
from serving.engines.torch_network import Network, list_architectures
from serving.errors import ConfigError
from tests.support.networks import on_meta

LINEAR = Head(kind="linear")
LABELS = tuple("abcdefg")
SIZE_PX = 224
"""Which every architecture takes."""
SMALL_PX = {"inception_v3": 96, "alexnet": 64, "maxvit_t": 224}
"""Side of the smallest pictures that an architecture takes, where that is not 32."""


def make(
    architecture: str = "resnet18",
    weights: str = "none",
    size: int = 32,
    head: Head = LINEAR,
    freeze: Freeze = "backbone",
) -> Network:
    return make_network(architecture, head, LABELS, input_spec(size), weights=weights, freeze=freeze)


@pytest.mark.parametrize(
    ("architecture", "size"),
    [("resnet18", 32), ("squeezenet1_1", 64), ("densenet121", 32), ("mobilenet_v3_small", 32), ("vit_b_32", 64)],
)
@pytest.mark.parametrize(
    ("head", "kinds"),
    [
        (LINEAR, ["layer"]),
        (Head(kind="mlp", hidden=12), ["layer", "ReLU", "layer"]),
        (Head(kind="mlp", hidden=12, dropout=0.3), ["layer", "ReLU", "Dropout", "layer"]),
    ],
)
def test_the_head_is_replaced_and_learns_alone(architecture: str, size: int, head: Head, kinds: list[str]) -> None:
    network = make(architecture, size=size, head=head).eval()
    assert network(torch.zeros(2, size, size, 3, dtype=torch.uint8)).shape == (2, 7)
    learning = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert learning == {f"body.{network.head_path}.{name}" for name, _ in network.head.named_parameters()}
    layer = "Conv2d" if architecture.startswith("squeezenet") else "Linear"
    modules = network.head if isinstance(network.head, nn.Sequential) else [network.head]
    assert [type(module).__name__ for module in modules] == [layer if kind == "layer" else kind for kind in kinds]


def test_there_are_eighty_architectures() -> None:
    assert len(list_architectures()) == 80


@pytest.mark.parametrize("architecture", list_architectures())
def test_every_architecture_gets_its_head_and_knows_its_last_stage(architecture: str) -> None:
    with on_meta():
        network = Network(architecture, LINEAR, len(LABELS), input_spec(SIZE_PX)).eval()
    pixels = torch.zeros(2, SIZE_PX, SIZE_PX, 3, dtype=torch.uint8, device="meta")
    assert network(pixels).shape == (2, len(LABELS))

    names = [name for name, _ in network.named_parameters()]
    assert [name.removeprefix(f"body.{network.head_path}.") for name in names[-2:]] == ["weight", "bias"]
    stage = last_stage(network, architecture)
    # More than the head, less than all, and a layer with weights of its own among them.
    before_head = stage[:-2]
    assert 0 < len(before_head) < len(names) - 2
    assert any(parameter.ndim >= 2 for parameter in before_head)
    assert names[-len(stage)].split(".")[1] != network.head_path.split(".", maxsplit=1)[0]


def num_parameters(architecture: str) -> int:
    """As torchvision's documentation of the published weights says."""
    count: int = models.get_model_weights(architecture).DEFAULT.meta["num_params"]
    return count


@pytest.mark.parametrize("architecture", [name for name in list_architectures() if num_parameters(name) < 100e6])
@pytest.mark.slow
def test_every_parameter_of_a_network_that_is_not_huge_gets_a_gradient(architecture: str) -> None:
    size = SMALL_PX.get(architecture, 64 if architecture.startswith("squeezenet") else 32)
    torch.manual_seed(0)
    network = make(architecture, size=size, freeze="none")
    set_training(network)
    _switch_off_chance(network)
    network(torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)).logsumexp(1).sum().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


def _switch_off_chance(network: nn.Module) -> None:
    """Stochastic depth leaves whole blocks without a gradient, now and then."""
    for module in network.modules():
        if type(module).__name__ in {"StochasticDepth", "Dropout"}:
            module.training = False


@pytest.mark.parametrize("architecture", ["inception_v3", "googlenet"])
def test_auxiliary_classifiers_are_left_away_and_training_gives_logits(architecture: str) -> None:
    network = make(architecture, size=96, freeze="none")
    assert [name for name, _ in network.named_parameters() if "aux" in name.lower()] == []
    set_training(network)
    assert network(torch.zeros(2, 96, 96, 3, dtype=torch.uint8)).shape == (2, 7)


@pytest.mark.parametrize(("freeze", "count"), [("backbone", 0), ("last-stage", 15), ("none", 60)])
def test_what_learns_comes_in_two_groups(freeze: Freeze, count: int) -> None:
    groups = parameter_groups(make(freeze=freeze))
    assert [parameter.shape for parameter in groups["head"]] == [(7, 512), (7,)]
    assert len(groups["backbone"]) == count
    assert all(parameter.requires_grad for group in groups.values() for parameter in group)


def test_of_a_last_stage_that_learns_the_rest_of_the_backbone_stays_in_evaluation_mode() -> None:
    network = make(freeze="last-stage")
    set_training(network)
    training = {
        name for name, module in network.named_modules() if module.training and isinstance(module, nn.BatchNorm2d)
    }
    assert training == {
        name
        for name, module in network.named_modules()
        if name.startswith("body.layer4") and isinstance(module, nn.BatchNorm2d)
    }
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8))
    moved = {name for name, buffer in network.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved
    assert all(name.startswith("body.layer4") for name in moved)


@pytest.mark.parametrize(("freeze", "drops"), [("backbone", False), ("last-stage", True), ("none", True)])
def test_dropout_before_the_head_is_on_when_what_feeds_it_learns(freeze: Freeze, drops: bool) -> None:
    network = make("efficientnet_b0", freeze=freeze)
    set_training(network)
    assert network.body.get_submodule("classifier.0").training is drops
    assert network.body.get_submodule("features.1.0.stochastic_depth").training is (freeze == "none")
    assert network.body.get_submodule("features.7.0.stochastic_depth").training is drops


def test_pixels_are_normalised_inside_the_network() -> None:
    network = make().eval()
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    spec = input_spec(32)
    mean, std = torch.tensor(spec.mean).view(1, 3, 1, 1), torch.tensor(spec.std).view(1, 3, 1, 1)
    expected = network.body((pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std)
    torch.testing.assert_close(network(pixels), expected)


@pytest.mark.parametrize("architecture", ["mnasnet0_5", "resnet18"])
def test_weights_of_a_plain_dict_are_taken_by_every_architecture(architecture: str) -> None:
    network = make(architecture)
    state = {name: tensor.clone() for name, tensor in make(architecture).state_dict().items()}
    network.load_state_dict(dict(state))
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("weights", ["none", "default"])
def test_an_unknown_architecture_is_named(weights: str) -> None:
    with pytest.raises(ConfigError, match='architecture "resnet19" does not exist'):
        make("resnet19", weights=weights)


def test_an_architecture_of_which_nothing_would_be_left_is_refused_at_that_size() -> None:
    with pytest.raises(ConfigError, match=r"alexnet does not take pictures of 32 x 32 px .*: use another --image-size"):
        make("alexnet", size=32)


def test_a_size_that_an_architecture_does_not_take_is_named() -> None:
    with pytest.raises(ConfigError, match="maxvit_t does not take pictures of 64 x 64 px"):
        make("maxvit_t", size=64)
