"""One ResNet-50 with random weights, as a bundle for Kennel and as a state dict for its peers."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from components.cache import Cache
from components.model import MEAN, STD, make_network
from components.train.graph import Graph
from components.train.quantize import convert
from serving import bundle, golden
from serving.bundle import Bundle, EngineMetrics, Head, InputSpec, Manifest, Metrics
from serving.engines import open_engine
from serving.engines.torch_network import Network
from serving.preprocess import Pixels, preprocess

ARCHITECTURE: Final = "resnet50"
LABELS: Final = tuple(f"label-{number:03}" for number in range(133))
SPEC: Final = InputSpec(height=224, width=224, resize_size=256, mean=MEAN, std=STD)
"""What torchvision's own examples and the handlers of the peers do."""
ENGINES: Final = ("onnx", "onnx-int8")
BRANCH_SCALE: Final = 0.2


def write(folder: Path, photographs: Sequence[bytes]) -> Bundle:
    """Write FOLDER/bundle, FOLDER/weights.pth and FOLDER/labels.json.

    Statistics of batch norms and the bias of the classifier are those of `photographs`, so that activations are of
    ordinary size and photographs get different labels.
    """
    pixels = np.stack([preprocess(photograph, SPEC) for photograph in photographs])
    torch.manual_seed(0)
    network = make_network(ARCHITECTURE, Head(kind="linear"), LABELS, SPEC, weights="none", freeze="none")
    _settle(network, pixels)
    torch.save(network.body.state_dict(), folder / "weights.pth")
    (folder / "labels.json").write_text(json.dumps(LABELS))
    return _write_bundle(folder / "bundle", network, pixels)


def _settle(network: Network, pixels: Pixels) -> None:
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
            # Branches add little to what they are added to, as in trained networks; else rounding grows with depth.
            if name.endswith("bn3"):
                nn.init.constant_(module.weight, BRANCH_SCALE)
    inputs = torch.from_numpy(pixels)
    with torch.inference_mode():
        network.train()(inputs)
        logits = network.eval()(inputs)
        assert isinstance(network.head, nn.Linear)
        # As spread out as those of a trained network, and no label ahead of the others.
        scale = 3 / logits.std(dim=0).mean()
        network.head.weight.mul_(scale)
        network.head.bias.copy_((network.head.bias - logits.mean(dim=0)) * scale)


def _write_bundle(folder: Path, network: Network, pixels: Pixels) -> Bundle:
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / bundle.WEIGHTS)
    with tempfile.TemporaryDirectory() as aside:
        Graph(network, SPEC, Cache(Path(aside))).write(folder)
        convert(folder / bundle.ONNX_MODEL, Path(aside) / bundle.INT8_MODEL, pixels)
        (folder / bundle.INT8_MODEL).write_bytes((Path(aside) / bundle.INT8_MODEL).read_bytes())
    names = [bundle.WEIGHTS, bundle.ONNX_MODEL, bundle.INT8_MODEL]
    draft = Bundle(folder, _manifest(folder, names))
    inputs, jpeg = golden.make_inputs(SPEC), golden.make_jpeg(SPEC)
    logits = {name: open_engine(name, draft).infer(inputs) for name in ENGINES}
    golden.write(folder / bundle.GOLDEN, golden.Golden(inputs, logits, jpeg, preprocess(jpeg, SPEC)))
    return bundle.write(folder, draft.manifest, [*names, bundle.GOLDEN])


def _manifest(folder: Path, names: Sequence[str]) -> Manifest:
    """A manifest whose metrics say nothing: nobody asked these weights about a test split."""
    untold = EngineMetrics(test_images=1, test_accuracy=0.0, test_loss=0.0, options={})
    return Manifest(
        architecture=ARCHITECTURE,
        head=Head(kind="linear"),
        labels=LABELS,
        input=SPEC,
        metrics=Metrics(test_accuracy=0.0, valid_accuracy=0.0, valid_loss=0.0, engines={"onnx": untold}),
        hyperparameters={},
        versions={},
        created="2000-01-01T00:00:00+00:00",
        files={name: bundle.describe_file(folder / name) for name in names},
    )
