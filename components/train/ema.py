"""A moving average of what is learnt: often better than where the last step happened to land."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from components.model import learnt_state
from serving.engines.torch_network import Weights


class Average:
    """Exponential moving average of a learner's weights; buffers are taken as they are.

    Source: Polyak and Juditsky 1992; the decay's warm-up as in TensorFlow's ExponentialMovingAverage, so that a short
    run is not averaged with where it began.
    """

    def __init__(self, learner: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.state: Weights = learnt_state(learner)

    def update(self, learner: nn.Module) -> None:
        """Take a step's outcome in."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        with torch.no_grad():
            for name, tensor in _tensors(learner):
                if name in self.state:
                    self._take(name, tensor, decay)

    @contextmanager
    def applied(self, learner: nn.Module) -> Iterator[None]:
        """Put the average in place of the weights for as long as the block runs."""
        own = learnt_state(learner)
        learner.load_state_dict(self.state, strict=False)
        try:
            yield
        finally:
            learner.load_state_dict(own, strict=False)

    def _take(self, name: str, tensor: Tensor, decay: float) -> None:
        mine = self.state[name] = self.state[name].to(tensor.device)
        if tensor.is_floating_point() and isinstance(tensor, nn.Parameter):
            mine.lerp_(tensor, 1 - decay)
        else:
            mine.copy_(tensor)


def _tensors(learner: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from learner.named_parameters()
    yield from learner.named_buffers()
