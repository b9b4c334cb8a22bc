"""Graphs of networks: what they answer, and how often a network is traced for them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from components.cache import Cache
from components.model import input_spec
from components.train.graph import Graph, Output
from serving import bundle
from serving.bundle import Head
from serving.engines.torch_network import Network
from tests.support.images import noise
from tests.support.networks import settled

TOLERANCE = 1e-4
"""Of the largest value."""

FAMILIES = {
    "alexnet": 64, "convnext_tiny": 32, "densenet121": 32, "efficientnet_b0": 32, "googlenet": 32, "inception_v3": 96,
    "maxvit_t": 224, "mnasnet0_5": 32, "mobilenet_v2": 32, "mobilenet_v3_small": 32, "regnet_y_400mf": 32,
    "resnet18": 32, "resnext50_32x4d": 32, "shufflenet_v2_x0_5": 32, "squeezenet1_1": 64, "swin_t": 64, "swin_v2_t": 64,
    "vgg11_bn": 32, "vit_b_32": 64, "wide_resnet50_2": 32,
}  # fmt: skip
"""One architecture of each, and a side that it takes, in px."""


def pictures(size: int, count: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.stack([noise(size, size, seed=seed) for seed in range(count)]))


def answer(graph: Graph, folder: Path, pixels: torch.Tensor, output: Output = "logits") -> NDArray[np.float32]:
    folder.mkdir(exist_ok=True)
    graph.write(folder, output)
    session = onnxruntime.InferenceSession(folder / bundle.ONNX_MODEL, providers=["CPUExecutionProvider"])
    (values,) = session.run(["logits"], {"pixels": pixels.numpy()})
    return np.asarray(values)


def assert_close(found: NDArray[np.float32], expected: torch.Tensor) -> None:
    wanted = expected.numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


def features_of(network: Network, pixels: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    hook = network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network(pixels)
    hook.remove()
    return seen[0]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_graph_of_every_family_answers_as_torch_does(architecture: str, tmp_path: Path) -> None:
    size = FAMILIES[architecture]
    network = settled(architecture, size)
    graph = Graph(network, input_spec(size), Cache(tmp_path / "cache"))
    for count in (1, 5):
        pixels = pictures(size, count)
        with torch.inference_mode():
            assert_close(answer(graph, tmp_path / "logits", pixels), network(pixels))
    assert_close(answer(graph, tmp_path / "features", pixels, "features"), features_of(network, pixels))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache that holds the trace of one network, and nothing else."""
    folder = tmp_path_factory.mktemp("kept")
    cache = Cache(folder / "cache")
    Graph(settled("resnet18", 32), input_spec(32), cache).write(folder)
    return cache


@pytest.fixture
def cache(kept: Cache, tmp_path: Path) -> Cache:
    """A copy of it."""
    return Cache(shutil.copytree(kept.folder, tmp_path / "cache"))


def num_traces(cache: Cache) -> int:
    return len([path for path in cache.folder.iterdir() if path.is_dir()])


def test_other_weights_are_filled_in_without_tracing_again(cache: Cache, tmp_path: Path) -> None:
    pixels = pictures(32)
    for seed in (0, 1):
        network = settled("resnet18", 32, seed=seed)
        graph = Graph(network, input_spec(32), cache)
        with torch.inference_mode():
            assert_close(answer(graph, tmp_path / "model", pixels), network(pixels))
        assert_close(answer(graph, tmp_path / "features", pixels, "features"), features_of(network, pixels))
    assert num_traces(cache) == 1


def test_a_kept_trace_holds_no_weights(kept: Cache) -> None:
    (traced,) = (path for path in kept.folder.rglob("*") if path.is_file() and path.stat().st_size > 0)
    num_weights = sum(parameter.numel() for parameter in settled("resnet18", 32).parameters())
    assert traced.stat().st_size < 4 * num_weights / 50  # a weight has four bytes


@pytest.mark.parametrize(
    "changed",
    [
        lambda: Network("resnet18", Head(kind="mlp"), 3, input_spec(32)),
        lambda: Network("resnet18", Head(kind="linear"), 4, input_spec(32)),
        lambda: Network("squeezenet1_1", Head(kind="linear"), 3, input_spec(32)),
    ],
    ids=["head", "labels", "architecture"],
)
def test_another_network_is_traced_by_itself(cache: Cache, tmp_path: Path, changed: Callable[[], Network]) -> None:
    pixels, network = pictures(32), changed().eval()
    with torch.inference_mode():
        assert_close(answer(Graph(network, input_spec(32), cache), tmp_path / "model", pixels), network(pixels))
    assert num_traces(cache) == 2
