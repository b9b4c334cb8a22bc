"""Where the network looked: the nodes that make class activation maps of what model.onnx computes anyway.

They go into a file of their own, which holds no weights: `serving.engines.activation_map` says why and how it is read.
Source: Zhou et al. 2016 (arXiv 1512.04150), section 2, for networks that end in a mean over all places and one linear
layer. Which do is seen in the graph, and then checked by numbers: the mean of the maps has to be the logits.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from serving import bundle, files
from serving.engines import Logits
from serving.engines.activation_map import OUTPUT
from serving.engines.onnx_engine import open_session
from serving.machine import num_cpus
from serving.preprocess import Pixels

logger = logging.getLogger(__name__)

TOLERANCE: Final = 1e-3
"""Of the maps' means, against the logits; relative to the largest logit."""
MEANS: Final = {"ReduceMean", "GlobalAveragePool"}
REARRANGING: Final = {"Reshape", "Flatten", "Squeeze", "Gather", "Identity"}
"""What lies between the mean and the classifier, and changes no value; torch's exporter writes `as_strided` as Gather.

That a Gather takes all of them in order is left to the check.
"""
LOGITS: Final = "logits"


class _Unsuitable(Exception):
    """The network has no such maps; the text says why."""


@dataclass(frozen=True)
class _Tail:
    """How a graph ends."""

    features: str
    """Name of what the mean is of, (N, C, h, w)."""
    weight: str
    """Name of the classifier's weights."""
    is_transposed: bool
    """Whether they are (K, C); otherwise (C, K)."""
    bias: NDArray[np.float32]
    """(K,), or (1,)"""


def write(folder: Path, pixels: Pixels, logits: Logits) -> bool:
    """Write activation_map.onnx beside the model.onnx in `folder`, if its network has such maps.

    Args:
        folder: Of a bundle under way.
        pixels: (N, H, W, 3), some pictures to check by.
        logits: (N, K), what the graph answers them.

    Returns:
        Whether it was written; the log says why not.
    """
    into = folder / bundle.ACTIVATION_MAP
    try:
        model = onnx.load(folder / bundle.ONNX_MODEL, load_external_data=False)
        tail = _find_tail(model, folder)
        files.write_bytes(into, _addition(tail).SerializeToString())
        difference = _check(folder, tail, pixels, logits)
    except _Unsuitable as reason:
        into.unlink(missing_ok=True)
        logger.info("%s: not written, %s", into.name, reason)
        return False
    logger.info("%s: written, the means of maps are at most %.1e off the logits (relative)", into.name, difference)
    return True


def _find_tail(model: ModelProto, folder: Path) -> _Tail:
    makers: dict[str, NodeProto] = {output: node for node in model.graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    classifier = makers[LOGITS]
    if classifier.op_type != "Gemm" or not {*classifier.input[1:]} <= constants.keys():
        raise _Unsuitable("the network does not end in a linear layer")
    node = _maker(makers, classifier)
    while node is not None and node.op_type in REARRANGING:
        node = _maker(makers, node)
    if node is None or node.op_type not in MEANS:
        found = "nothing" if node is None else node.op_type
        raise _Unsuitable(f"what the last linear layer is given is no mean over all places, but comes from {found}")
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in classifier.attribute}
    bias = np.zeros(1, np.float32)
    if len(classifier.input) > 2:
        bias = numpy_helper.to_array(constants[classifier.input[2]], base_dir=str(folder))
    return _Tail(node.input[0], classifier.input[1], attributes.get("transB", 0) == 1, bias)


def _maker(makers: Mapping[str, NodeProto], node: NodeProto) -> NodeProto | None:
    """The node whose output is the first input of `node`."""
    return makers.get(node.input[0])


def _addition(tail: _Tail) -> ModelProto:
    """A model of nodes and an output alone, to be appended to one that has all else.

    The classifier is a product of matrices with the weights on the left, of which ONNX Runtime makes no second copy.
    """
    names = {name: f"{OUTPUT}/{name}" for name in ("weight", "as_rows", "rows", "products", "size", "leading", "shape")}
    constants = {"as_rows": np.array([0, 0, -1]), "leading": np.array([0, -1])}
    node = helper.make_node
    nodes = [
        node("Reshape", [tail.features, names["as_rows"]], [names["rows"]]),  # (N, C, h * w)
        node("MatMul", [tail.weight, names["rows"]], [names["products"]]),  # (N, K, h * w)
        node("Shape", [tail.features], [names["size"]], start=2, end=4),
        node("Concat", [names["leading"], names["size"]], [names["shape"]], axis=0),
        node("Reshape", [names["products"], names["shape"]], [OUTPUT]),
    ]
    if not tail.is_transposed:
        nodes[1].input[0] = names["weight"]
        nodes.insert(0, node("Transpose", [tail.weight], [names["weight"]], perm=[1, 0]))
    for made in nodes:
        made.name = f"node_{made.output[0]}"
    model = ModelProto()
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(value, names[name]) for name, value in constants.items())
    shape = ["batch", "labels", "rows", "columns"]
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape))
    return model


def _check(folder: Path, tail: _Tail, pixels: Pixels, logits: Logits) -> float:
    """How far the means of maps are from the logits, relative to the largest of them."""
    try:
        session = open_session(folder / bundle.ONNX_MODEL, num_cpus(), folder / bundle.ACTIVATION_MAP)
        (maps,) = session.run([OUTPUT], {session.get_inputs()[0].name: np.ascontiguousarray(pixels)})
    except Exception as error:  # a mean that is of something else than places
        raise _Unsuitable(f"its maps cannot be computed: {str(error).splitlines()[0]}") from error
    if maps.shape[2:] == (1, 1):
        raise _Unsuitable("at this image size its features are of one place, the whole picture")
    means = maps.mean(axis=(2, 3)) + tail.bias
    if means.shape != logits.shape:
        raise _Unsuitable(f"the means of its maps are {means.shape}, and the logits {logits.shape}")
    difference = float(np.abs(means - logits).max() / max(1e-6, np.abs(logits).max()))
    if not difference <= TOLERANCE:  # written so that NaN fails
        raise _Unsuitable(f"the means of its maps are {difference:.1e} off the logits (relative)")
    return difference
