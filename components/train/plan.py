"""How a run learns: the settings of the loop, and the pure functions that follow from them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from components.train.augment import Mixing

ONE_CYCLE_PEAK: Final = 0.3
"""Share of a one-cycle run at which the learning rate is highest (Smith and Topin 2018; as in torch's OneCycleLR)."""


@dataclass(frozen=True)
class Plan:
    """What the loop is told; see components/train/settings.py for each."""

    epochs: int
    batch_size: int
    lr: float
    seed: int
    schedule: Literal["cosine", "onecycle", "constant"] = "cosine"
    warmup: float = 0.0
    micro_batch: int | None = None
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    label_weights: tuple[float, ...] | None = None
    """(K,), of the labels in the loss."""
    mixing: Mixing | None = None
    dtype: torch.dtype = torch.float32
    """Of the computation; weights are float32."""


def learning_rate(plan: Plan, progress: float) -> float:
    """The rate when a share `progress` of the run is done: a pure function, so a restart needs no memory of it.

    Source: cosine annealing without restarts, Loshchilov and Hutter 2017, equation 5; linear warm-up, Goyal et al.
    2017, section 2.2.
    """
    if progress < plan.warmup:
        return plan.lr * progress / plan.warmup
    left = (progress - plan.warmup) / (1 - plan.warmup)
    if plan.schedule == "constant":
        return plan.lr
    if plan.schedule == "onecycle":
        rises = left < ONE_CYCLE_PEAK
        left = 1 - left / ONE_CYCLE_PEAK if rises else (left - ONE_CYCLE_PEAK) / (1 - ONE_CYCLE_PEAK)
    return plan.lr * (1 + math.cos(math.pi * left)) / 2


def order(plan: Plan, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of `count` samples in an epoch (from 1): drawn from (seed, epoch) and nothing else."""
    return np.random.default_rng((plan.seed, epoch)).permutation(count)


def batches(places: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Cut an order into batches; a last one of a single sample joins the one before it.

    Batch statistics of one sample are none: torch refuses them where the feature map is a single pixel.
    """
    ends = list(range(batch_size, len(places), batch_size))
    if len(ends) > 0 and len(places) - ends[-1] == 1 and batch_size > 1:
        ends.pop()
    yield from np.split(places, ends)


def balanced_weights(targets: NDArray[np.int64], num_labels: int) -> tuple[float, ...]:
    """Weights (K,) by which every label counts the same in the loss, 1 on average over the samples.

    Source: King and Zeng 2001; as `class_weight="balanced"` in scikit-learn.
    """
    counts = np.bincount(targets, minlength=num_labels)
    return tuple((len(targets) / (num_labels * np.maximum(counts, 1))).tolist())
