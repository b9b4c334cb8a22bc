"""Class activation maps: that they are what the logits are the means of, and that they lie where the evidence does."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from components.cache import Cache
from components.model import input_spec
from components.train import activation_map
from components.train.graph import Graph
from serving import bundle
from serving.bundle import Head
from serving.engines.onnx_engine import open_session
from serving.engines.torch_network import Network
from serving.preprocess import Pixels
from tests.support.images import noise
from tests.support.networks import settled

SIZE = 64
TOLERANCE = 1e-4
"""Of logits, relative to the largest."""


def pictures(count: int = 3) -> Pixels:
    return np.stack([noise(SIZE, SIZE, seed=seed) for seed in range(count)])


def logits_of(network: Network, pixels: Pixels) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits: NDArray[np.float32] = network(torch.from_numpy(pixels)).numpy()
    return logits


def export(network: Network, folder: Path) -> bool:
    """Write the graph and, where it has maps, what makes them."""
    Graph(network, input_spec(SIZE), Cache(Path(os.environ["KENNEL_CACHE_DIR"]))).write(folder)
    return activation_map.write(folder, pictures(), logits_of(network, pictures()))


def maps_of(folder: Path, pixels: Pixels) -> NDArray[np.float32]:
    session = open_session(folder / bundle.ONNX_MODEL, 1, folder / bundle.ACTIVATION_MAP)
    maps: NDArray[np.float32] = session.run(["activation_map"], {"pixels": pixels})[0]
    return maps


@pytest.mark.parametrize(
    "architecture",
    ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mobilenet_v2", "densenet121"))],
)
def test_the_mean_of_a_map_with_the_bias_is_the_logit(architecture: str, tmp_path: Path) -> None:
    network = settled(architecture, SIZE)
    assert export(network, tmp_path)
    bias = network.head.get_parameter("bias").detach().numpy()
    for count in (1, 5):
        pixels = pictures(count)
        expected, maps = logits_of(network, pixels), maps_of(tmp_path, pixels)
        assert maps.shape == (count, 3, 2, 2)
        assert np.ptp(maps, axis=(2, 3)).min() > 100 * TOLERANCE * np.abs(expected).max()  # places differ
        difference = np.abs(maps.mean(axis=(2, 3)) + bias - expected).max()
        assert difference < TOLERANCE * np.abs(expected).max()


def test_the_nodes_hold_no_weights_and_the_model_stays_as_it_was(tmp_path: Path) -> None:
    network = settled("resnet18", SIZE)
    assert export(network, tmp_path)
    assert (tmp_path / bundle.ACTIVATION_MAP).stat().st_size < 1000
    alone = onnx.load(tmp_path / bundle.ONNX_MODEL)
    assert [output.name for output in alone.graph.output] == ["logits"]
    together = onnx.load_from_string(
        (tmp_path / bundle.ONNX_MODEL).read_bytes() + (tmp_path / bundle.ACTIVATION_MAP).read_bytes()
    )
    onnx.checker.check_model(together, full_check=True)
    assert [output.name for output in together.graph.output] == ["logits", "activation_map"]


def test_a_label_whose_evidence_is_on_the_left_has_its_maximum_there(tmp_path: Path) -> None:
    """The last convolution passes on how red a place is, and one label lives on that."""
    network = settled("resnet18", SIZE)
    body = network.body
    with torch.no_grad():
        for convolution in (module for module in body.modules() if isinstance(module, torch.nn.Conv2d)):
            convolution.weight.zero_()
            middle = convolution.kernel_size[0] // 2
            convolution.weight[0, 0, middle, middle] = 1.0
        for norm in (module for module in body.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.reset_running_stats()
            norm.reset_parameters()
        network.head.get_parameter("weight").zero_()
        network.head.get_parameter("weight")[1, 0] = 1.0
    pixels = np.zeros((2, SIZE, SIZE, 3), dtype=np.uint8)
    pixels[0, :, : SIZE // 4, 0] = 255
    pixels[1, : SIZE // 4, :, 0] = 255
    assert export(network, tmp_path)
    left, upper = maps_of(tmp_path, pixels)[:, 1]
    assert (left[:, 0] > left[:, 1] + 0.5).all()
    assert (upper[0] > upper[1] + 0.5).all()


@pytest.mark.parametrize(
    ("architecture", "head", "reason"),
    [
        ("resnet18", Head(kind="mlp"), "is no mean over all places, but comes from Relu"),
        pytest.param(
            *("alexnet", Head(kind="linear"), "is no mean over all places, but comes from Relu"), marks=pytest.mark.slow
        ),
        pytest.param(
            *("vit_b_32", Head(kind="linear"), "is no mean over all places, but comes from LayerNormalization"),
            marks=pytest.mark.slow,
        ),
        ("squeezenet1_1", Head(kind="linear"), "does not end in a linear layer"),
    ],
)
def test_a_network_that_ends_otherwise_has_none_and_the_log_says_why(
    architecture: str, head: Head, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network(architecture, head, 3, input_spec(SIZE)).eval()
    with caplog.at_level("INFO", activation_map.logger.name):
        assert not export(network, tmp_path)
    assert not (tmp_path / bundle.ACTIVATION_MAP).exists()
    assert reason in caplog.text


def test_maps_whose_means_are_not_the_logits_are_kept_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As they would be if something in the tail of a graph only looked like rearranging."""
    network = settled("resnet18", SIZE)
    assert export(network, tmp_path)
    expected = logits_of(network, pictures())
    with caplog.at_level("INFO", activation_map.logger.name):
        assert not activation_map.write(tmp_path, pictures(), expected * 1.01)
        assert not activation_map.write(tmp_path, pictures(), expected[:, :2])
    assert not (tmp_path / bundle.ACTIVATION_MAP).exists()
    assert "off the logits (relative)" in caplog.text
    assert "the means of its maps are (3, 3), and the logits (3, 2)" in caplog.text


def test_weights_beside_the_graph_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.train.graph.MAX_GRAPH_BYTES", 10**6)  # ResNet-18 has 45 MB
    network = settled("resnet18", SIZE)
    assert export(network, tmp_path)
    assert (tmp_path / bundle.ONNX_DATA).exists()
    assert maps_of(tmp_path, pictures(1)).shape == (1, 3, 2, 2)
