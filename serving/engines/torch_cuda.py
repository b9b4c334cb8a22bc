"""A network on an NVIDIA GPU: bfloat16, channels-last, each batch size captured once as a CUDA graph and replayed.

At small batches most of the time goes into starting hundreds of short kernels one by one; a graph starts them all at
once. Source: CUDA C++ Programming Guide, section "CUDA Graphs"; torch.cuda.graph.
"""

import logging
from contextlib import AbstractContextManager
from typing import Final

import torch
from torch import Tensor

from serving.engines.torch_batches import Step
from serving.engines.torch_network import Network

logger = logging.getLogger(__name__)

WARM_UP_STEPS: Final = 3
"""Before capture: the first chooses kernels and allocates, and either would spoil a graph."""


class CudaRunner:
    """See `Runner`. The network's body is in the dtype in which it computes."""

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.has_graphs = True
        self._network = network.to(self.device)
        self._dtype = dtype
        # Of its own, so that several models in one process do not wait for each other.
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream())  # in which the weights are on their way
        self._memory = torch.cuda.graph_pool_handle()

    def queue(self) -> AbstractContextManager[object]:
        """See `Runner.queue`."""
        return torch.cuda.stream(self._stream)

    def forward(self, pixels: Tensor) -> Tensor:
        """See `Runner.forward`. Pixels are channels-last as they come."""
        return self._network.forward_in(self._dtype, pixels)

    def prepare(self, step: Step) -> Step:
        """Capture the step; where the network does what cannot be captured, it runs as it is and the log says so."""
        # Shapes never change, so it pays to try which kernels are the fastest.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            for _ in range(WARM_UP_STEPS):
                step()
            self.wait()
            if not self.has_graphs:
                return step
            try:
                return self._capture(step)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.has_graphs = False
                logger.warning("the network cannot be captured as a CUDA graph and runs without: %s", error)
                return step

    def wait(self) -> None:
        """See `Runner.wait`."""
        self._stream.synchronize()

    def _capture(self, step: Step) -> Step:
        graph = torch.cuda.CUDAGraph()
        # thread_local: another model's thread may allocate meanwhile.
        with torch.cuda.graph(graph, self._memory, self._stream, capture_error_mode="thread_local"):
            step()
        return graph.replay
