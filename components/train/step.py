"""One update of the weights: forward, loss, backward, in as many pieces as memory asks for."""

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from components.model import trains_batch_norm
from components.train.plan import Plan
from components.train.sources import Loaded
from components.train.world import World
from serving.errors import ConfigError

logger = logging.getLogger(__name__)


class Stepper:
    """Computes steps of a learner, alone or with the other processes of its world."""

    def __init__(self, learner: nn.Module, optimizer: Optimizer, plan: Plan, world: World) -> None:
        self._model = _in_parallel(learner, world)
        self._learning = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        self._optimizer = optimizer
        self._plan = plan
        self._world = world
        self._micro_batch = plan.micro_batch
        self._weights = None if plan.label_weights is None else torch.tensor(plan.label_weights, device=world.device)

    def step(
        self,
        loaded: Loaded,
        targets: Tensor,
        *,
        epoch: int,
        batch: int,
        lr: float,
        on_backward: Callable[[Tensor], None],
    ) -> Tensor:
        """Update the weights.

        Args:
            loaded: This process's share of the batch; shares that were filled up repeat samples of the batch.
            targets: (N,), of the whole batch.
            epoch: From 1.
            batch: From 1.
            lr: Learning rate; groups of the optimizer with a `factor` take that share of it.
            on_backward: Called between the gradients and the update.

        Returns:
            The mean loss of the whole batch, 0-dimensional, on the device.

        Raises:
            ConfigError: Memory does not even hold one sample, or batch statistics of one sample are asked for.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group.get("factor", 1.0)
        loss = self._world.sum(self._gradients(loaded, targets, epoch, batch))
        on_backward(loss)
        if self._plan.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._learning, self._plan.clip_norm)
        self._optimizer.step()
        return loss

    def _gradients(self, loaded: Loaded, targets: Tensor, epoch: int, batch: int) -> Tensor:
        """Gradients of the whole batch's mean loss; returns this process's part of that loss."""
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            try:
                return self._in_pieces(loaded, targets, epoch, batch)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                self._use_less_memory(len(loaded.inputs), error)

    def _in_pieces(self, loaded: Loaded, targets: Tensor, epoch: int, batch: int) -> Tensor:
        seed = np.random.default_rng((self._plan.seed, epoch, batch, self._world.rank)).integers(2**63)
        torch.manual_seed(int(seed))
        inputs, truth, weights = self._weigh(loaded, targets, epoch, batch)
        total = torch.zeros((), device=inputs.device)
        # Pieces of even size: a last one of a single sample has no batch statistics.
        count = -(-len(inputs) // (self._micro_batch or len(inputs)))
        pieces = zip(*(whole.tensor_split(count) for whole in (inputs, truth, weights)), strict=True)
        for number, (some_inputs, some_truth, some_weights) in enumerate(pieces, start=1):
            if isinstance(self._model, DistributedDataParallel):
                self._model.require_backward_grad_sync = number == count  # gradients travel once a step
            loss = (self._losses(some_inputs, some_truth) * some_weights).sum()
            (loss * self._world.size).backward()  # processes' gradients are averaged
            total += loss.detach()
        return total

    def _weigh(self, loaded: Loaded, targets: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets, and the weight of each sample's loss in the mean over the whole batch."""
        places = self._world.rank + torch.arange(len(loaded.inputs)) * self._world.size
        is_counted = (places < len(targets)).to(loaded.inputs.device)
        if self._plan.mixing is None:
            total = len(targets) if self._weights is None else self._weights[targets].sum()
            return loaded.inputs, loaded.targets, is_counted / total
        one_hot = nn.functional.one_hot(loaded.targets, self._num_labels()).float()
        inputs, truth = self._plan.mixing(loaded.inputs, one_hot, epoch, batch)
        return inputs, truth, is_counted / len(targets)

    def _losses(self, inputs: Tensor, truth: Tensor) -> Tensor:
        device, dtype = self._world.device, self._plan.dtype
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = self._forward(inputs)
        return nn.functional.cross_entropy(
            logits.float(), truth, self._weights, reduction="none", label_smoothing=self._plan.label_smoothing
        )

    def _forward(self, inputs: Tensor) -> Tensor:
        try:
            logits: Tensor = self._model(inputs)
        except ValueError as error:  # torch: "Expected more than 1 value per channel when training"
            if "more than 1 value per channel" not in str(error):
                raise
            raise ConfigError(
                "batches of one image cannot train batch normalisation: use a --batch-size and a --micro-batch of 2 or "
                "more for each process, or --freeze backbone"
            ) from error
        return logits

    def _use_less_memory(self, count: int, error: RuntimeError) -> None:
        size = min(self._micro_batch or count, count)
        if self._world.size > 1 or size == 1:
            raise ConfigError(
                f"memory does not hold {size} images of a step: use a --micro-batch below {size}, "
                "a smaller --image-size or a smaller --arch"
            ) from error
        self._micro_batch = -(-size // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning(
            "memory does not hold %d images at once: from here on %d are computed at a time, and gradients add up",
            size,
            self._micro_batch,
        )

    def _num_labels(self) -> int:
        head = [module for module in self._model.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
        return head.out_features if isinstance(head, nn.Linear) else head.out_channels


def _in_parallel(learner: nn.Module, world: World) -> nn.Module:
    if world.size == 1:
        return learner
    if trains_batch_norm(learner):
        logger.info(
            "batch normalisation: %s",
            "statistics of the whole batch, over all processes"
            if world.device.type == "cuda"
            else f"each of {world.size} processes takes its own share's statistics, so other numbers of processes end "
            "with somewhat other weights",
        )
    if world.device.type == "cuda":
        synced = nn.SyncBatchNorm.convert_sync_batchnorm(learner)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(synced, device_ids=[world.local_rank])
    return DistributedDataParallel(learner)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
