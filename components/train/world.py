"""The processes that train together, and what they tell each other."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed

from serving.errors import ConfigError


@dataclass(frozen=True)
class World:
    """This process's place among those of the run; alone unless torchrun started it."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    """Processes on this host."""

    @property
    def is_leader(self) -> bool:
        """Whether this process writes: of many, one does."""
        return self.rank == 0

    @property
    def is_host_leader(self) -> bool:
        """Whether this process writes what its host keeps for itself: hosts share no disk."""
        return self.local_rank == 0

    @property
    def device(self) -> torch.device:
        """The GPU of this process, or the CPU."""
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def any(self, is_true: bool) -> bool:
        """Whether it is so in any process: all have to stop at the same step."""
        if self.size == 1:
            return is_true
        # On the CPU, so that no GPU is waited for.
        return bool(self.sum(torch.tensor(float(is_true))) > 0)

    def broadcast(self, tensors: Iterable[Tensor], owner: int = 0) -> None:
        """Overwrite tensors with those of the process of rank `owner`."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, owner)

    def share(self, content: bytes) -> bytes:
        """What the leader gives, in every process; others give what they like."""
        if self.size == 1:
            return content
        mine = np.frombuffer(content if self.is_leader else b"", dtype=np.uint8)
        # On the CPU, as it is read and used there.
        length = int(self.sum(torch.tensor(len(mine))))
        shared = torch.from_numpy(np.resize(mine, length)) if length else torch.empty(0, dtype=torch.uint8)
        distributed.broadcast(shared, 0)
        return shared.numpy().tobytes()

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.size > 1:
            distributed.barrier()


def from_environment(environ: Mapping[str, str] = os.environ) -> World:
    """What torchrun says in `RANK`, `WORLD_SIZE`, `LOCAL_RANK` and `LOCAL_WORLD_SIZE`.

    Raises:
        ConfigError: One of them is no number.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = {name: environ.get(name, default) for name, default in zip(names, ("0", "1", "0", "1"), strict=True)}
    for name, value in values.items():
        if not value.isdecimal():
            raise ConfigError(f"environment variable {name} is {value!r}, expected a whole number: torchrun sets it")
    return World(*map(int, values.values()))
