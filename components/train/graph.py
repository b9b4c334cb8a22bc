"""A network as an ONNX graph: traced once for its shape, filled with weights as often as there are new ones.

Tracing takes seconds and asks for no weights, so the traced graph without them is kept in the cache: one trace serves
the pass that computes features, the bundle, and every later run and trial of the same network.
"""

import copy
import hashlib
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from components.cache import Cache, key
from serving import bundle, files
from serving.bundle import InputSpec
from serving.engines.torch_network import Network, Weights
from serving.errors import EngineError

MAX_GRAPH_BYTES: Final = 2**31 - 2**27
"""Weights up to which the graph is one file: protobuf ends at 2 GiB, and the graph itself needs some of it."""
PACKAGES: Final = ("torch", "torchvision", "onnx", "onnxscript")

Output = Literal["logits", "features"]
"""`features`: what the head is given."""
OUTPUTS: Final[tuple[Output, ...]] = ("logits", "features")
_FILE: Final = "graph.onnx"
_PREFIX: Final = "network."
"""Of the names that tracing gives to weights; `_WithFeatures` holds the network under this one."""


@dataclass(frozen=True)
class Graph:
    """The graph of one network."""

    network: Network
    spec: InputSpec
    cache: Cache

    def write(self, folder: Path, output: Output = "logits") -> None:
        """Write model.onnx to `folder`, and model.onnx.data beside it when the weights are too many for one file.

        The input is `pixels`, uint8 (N, H, W, 3); the output is called `logits` whatever it is.

        Raises:
            EngineError: torch's exporter cannot.
        """
        from onnxscript import ir, optimizer  # takes a second

        model = ir.load(self._traced() / _FILE)
        weights = self._weights()
        _fill(model.graph, weights)
        _leave(model.graph, output)
        optimizer.optimize_ir(model)
        size_bytes = sum(tensor.nbytes for tensor in weights.values())
        # The graph names the file of its weights, so both are written under their own names, aside, and then moved.
        with tempfile.TemporaryDirectory(prefix=files.ASIDE_PREFIX, dir=folder) as aside:
            beside = bundle.ONNX_DATA if size_bytes > MAX_GRAPH_BYTES else None
            ir.save(model, Path(aside) / bundle.ONNX_MODEL, external_data=beside)
            for name in (bundle.ONNX_DATA, bundle.ONNX_MODEL):
                if (Path(aside) / name).exists():
                    files.publish(Path(aside) / name, folder / name)

    def _weights(self) -> Weights:
        """All that has a name: what is normalised with is no part of the state, and yet not of the shape either."""
        return self.network.state_dict() | dict(self.network.named_buffers())

    def _traced(self) -> Path:
        shapes = {name: str(tuple(tensor.shape)) for name, tensor in self.network.state_dict().items()}
        facts = {
            "modules": hashlib.sha256(repr(self.network).encode()).hexdigest(),
            "shapes": shapes,
            "input": self.spec.model_dump(mode="json"),
            "versions": {name: version(name) for name in PACKAGES},
            "source": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        }
        return self.cache.entry(key("graph", facts), self._trace)

    def _trace(self, folder: Path) -> None:
        from onnxscript import ir

        pixels = torch.zeros(
            2, self.spec.height, self.spec.width, 3, dtype=torch.uint8
        )  # of 1, a constant would be made
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's notes on itself; what it wrote is compared with torch
            program = torch.onnx.export(
                _WithFeatures(copy.deepcopy(self.network)).eval().cpu(),  # the network itself may live on a GPU
                (pixels,),
                input_names=["pixels"],
                output_names=list(OUTPUTS),
                dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
                dynamo=True,
                optimize=False,  # it would fold weights into one another, and they could not be found again
                verbose=False,
            )
        if program is None:
            raise EngineError("torch's ONNX exporter wrote nothing")
        _empty(program.model.graph, [_PREFIX + name for name in self._weights()])
        ir.save(program.model, folder / _FILE)


class _WithFeatures(nn.Module):
    """Logits, and what the head made them of."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        hook = self.network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            return self.network(pixels), seen[0]
        finally:
            hook.remove()


def _empty(graph: Any, names: Sequence[str]) -> None:
    """Make inputs of the weights: values with a name and a shape but without content."""
    for name in [name for name in names if name in graph.initializers]:  # the counters of batch norms are not
        value = graph.initializers.pop(name)
        value.const_value = None
        graph.inputs.append(value)


def _fill(graph: Any, weights: Mapping[str, Tensor]) -> None:
    """Put weights in the place of the inputs that `_empty` made."""
    from onnxscript import ir

    for value in [value for value in graph.inputs if value.name.startswith(_PREFIX)]:
        tensor = weights[value.name.removeprefix(_PREFIX)]
        graph.inputs.remove(value)
        value.const_value = ir.tensor(tensor.detach().cpu().contiguous().numpy(), name=value.name)
        graph.register_initializer(value)


def _leave(graph: Any, output: Output) -> None:
    """Leave one output, by the name that readers of a graph know; the nodes of the other go with the optimiser."""
    (kept,) = [value for value in graph.outputs if value.name == output]
    graph.outputs[:] = [kept]
    kept.name = OUTPUTS[0]
