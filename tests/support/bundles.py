"""Small real bundles, made in milliseconds: a graph with seeded weights in place of a training."""

import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from serving import bundle, golden
from serving.bundle import Bundle, EngineMetrics, Head, InputSpec, Manifest, Metrics
from serving.engines import Engine, open_engine
from serving.preprocess import preprocess
from tests.support import images

LABELS = ("ant", "bee", "café", "dog", "eel", "fox", "gnu")
SPEC = InputSpec(height=24, width=20, resize_size=28, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HEAVY_CHANNELS = 384
ARCHITECTURE = "squeezenet1_1"
"""Of the torch weights: the smallest of torchvision's that takes pictures of this size."""


def write_bundle(
    folder: Path,
    *,
    seed: int = 0,
    labels: tuple[str, ...] = LABELS,
    depth: int = 0,
    with_torch: bool = False,
    with_int8: bool = False,
    with_maps: bool = False,
) -> Bundle:
    """A bundle with a convolution, pooling and a linear layer as its ONNX model, and `depth` heavy ones between.

    With torch it also has weights, of another network: each engine is compared with its own golden logits alone. With
    int8 it also has the same model in 8-bit integers; with maps it can tell where it looked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / bundle.ONNX_MODEL, seed, len(labels), depth)
    names = [bundle.ONNX_MODEL]
    if with_torch:
        _write_weights(folder / bundle.WEIGHTS, seed, len(labels))
        names.append(bundle.WEIGHTS)
    if with_int8:
        _write_int8(folder)
        names.append(bundle.INT8_MODEL)
    if with_maps:
        _write_maps(folder)
        names.append(bundle.ACTIVATION_MAP)
    draft = Bundle(folder, _manifest(labels, folder, names))
    pixels, jpeg = golden.make_inputs(SPEC), golden.make_jpeg(SPEC)
    engines = ["onnx", *(["torch"] if with_torch else []), *(["onnx-int8"] if with_int8 else [])]
    logits = {name: _open(name, draft).infer(pixels) for name in engines}
    golden.write(folder / bundle.GOLDEN, golden.Golden(pixels, logits, jpeg, preprocess(jpeg, SPEC)))
    return bundle.write(folder, draft.manifest, [*names, bundle.GOLDEN])


def _open(name: str, draft: Bundle) -> Engine:
    """On the CPU, in float32, wherever the tests run: golden logits are."""
    if name != "torch":
        return open_engine(name, draft, 1)
    from serving.engines.torch_engine import TorchEngine

    return TorchEngine(draft, 1, device="cpu")


def write_model(path: Path, seed: int, num_labels: int, depth: int = 0) -> None:
    """uint8 (N, H, W, 3) in, float32 (N, K) out; normalisation inside, as in every bundle.

    Each of `depth` convolutions takes milliseconds of a core, so that a server has a capacity that can be exceeded.
    """
    generator = np.random.default_rng(seed)

    def weights(name: str, *shape: int, scale: float = 1.0) -> onnx.TensorProto:
        return numpy_helper.from_array(generator.normal(0, scale, shape).astype(np.float32), name)

    def constant(name: str, values: tuple[float, ...]) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, np.float32) * 255, name)

    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["floats", "mean"], ["centered"]),
        helper.make_node("Div", ["centered", "std"], ["normalised"]),
        helper.make_node("Transpose", ["normalised"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["edges"], strides=[2, 2]),
        helper.make_node("Relu", ["edges"], ["features"]),
        *_heavy_nodes(depth),
        helper.make_node("GlobalAveragePool", [f"heavy{depth}" if depth else "features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
    ]
    for node in nodes:
        node.name = f"node_{node.output[0]}"  # as torch's exporter names them
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", SPEC.height, SPEC.width, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", num_labels])],
        [
            constant("mean", SPEC.mean),
            constant("std", SPEC.std),
            weights("kernel", 16, 3, 5, 5),
            weights("weight", HEAVY_CHANNELS if depth else 16, num_labels),
            weights("bias", num_labels),
            *(
                weights(f"heavy_kernel{number}", HEAVY_CHANNELS, inputs, 3, 3, scale=(2 / (9 * inputs)) ** 0.5)
                for number, inputs in enumerate([16, *[HEAVY_CHANNELS] * depth][:depth], start=1)
            ),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _heavy_nodes(depth: int) -> list[onnx.NodeProto]:
    nodes = []
    for number in range(1, depth + 1):
        before = f"heavy{number - 1}" if number > 1 else "features"
        inputs = [before, f"heavy_kernel{number}"]
        nodes.append(helper.make_node("Conv", inputs, [f"sum{number}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"sum{number}"], [f"heavy{number}"]))
    return nodes


def pack(folder: Path, archive: Path) -> Path:
    """The bundle as SageMaker packs a model directory."""
    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=file.name)
    return archive


def reseal(folder: Path, **changes: Any) -> None:
    """Make the manifest fit the files as they are now, as somebody would who swaps a file and knows the format."""
    path = folder / bundle.MANIFEST
    content = json.loads(path.read_text())
    for name in content["files"]:
        content["files"][name] = bundle.describe_file(folder / name).model_dump()
    path.write_text(json.dumps(sealed(content | changes)))


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a manifest with the hash that fits it, as far as it is a manifest at all."""
    try:
        return content | {"sha256": bundle.Manifest.model_validate(content).digest()}
    except ValidationError:
        return content


def _write_int8(folder: Path) -> None:
    from components.train.quantize import convert

    calibration = np.stack([images.noise(SPEC.height, SPEC.width, seed=seed) for seed in range(64)])
    with tempfile.TemporaryDirectory() as aside:  # the quantiser leaves files of its own there
        convert(folder / bundle.ONNX_MODEL, Path(aside) / bundle.INT8_MODEL, calibration)
        shutil.copy(Path(aside) / bundle.INT8_MODEL, folder)


def _write_maps(folder: Path) -> None:
    from components.train import activation_map
    from serving.engines.onnx_engine import open_session

    pixels = golden.make_inputs(SPEC)
    (logits,) = open_session(folder / bundle.ONNX_MODEL, 1).run(["logits"], {"pixels": pixels})
    assert activation_map.write(folder, pixels, logits)


def _write_weights(path: Path, seed: int, num_labels: int) -> None:
    import torch
    from safetensors.torch import save_file

    from serving.engines.torch_network import Network

    torch.manual_seed(seed)
    network = Network(ARCHITECTURE, Head(kind="linear"), num_labels, SPEC)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)


def _manifest(labels: tuple[str, ...], folder: Path, names: list[str]) -> Manifest:
    measured = EngineMetrics(test_images=1, test_accuracy=1 / len(labels), test_loss=2.0, options={})
    return Manifest(
        architecture=ARCHITECTURE,
        head=Head(kind="linear"),
        labels=labels,
        input=SPEC,
        metrics=Metrics(
            test_accuracy=1 / len(labels), valid_accuracy=1 / len(labels), valid_loss=2.0, engines={"onnx": measured}
        ),
        hyperparameters={},
        versions={},
        created="2000-01-01T00:00:00+00:00",
        files={name: bundle.describe_file(folder / name) for name in names},
    )
