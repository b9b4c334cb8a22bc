"""Search spaces drawn at random, all of which train accepts with an mlp for a head."""

import math
from random import Random
from typing import Any, Final

from components.train.settings import TrainSettings
from components.tune.space import Categorical, Continuous, Integer, Range, Scale, Space, Value

BASE: Final = TrainSettings(head="mlp")

NUMBERS: Final = {
    "lr": (1e-9, 1000.0),
    "backbone_lr_factor": (1e-7, 1.0),
    "clip_norm": (1e-5, 1e9),
    "weight_decay": (0.0, 1e12),
    "dropout": (0.0, 0.999),
    "warmup": (0.0, 0.5),
    "ema": (0.0, 0.9999),
    "mixup": (0.0, 8.0),
}
WHOLE_NUMBERS: Final = {
    "epochs": (1, 100_000),
    "batch_size": (1, 65_536),
    "image_size": (8, 4096),
    "hidden": (1, 100_000),
    "patience": (1, 50),
    "seed": (0, 2**32 - 1),
}
TEXTS: Final[dict[str, list[Value]]] = {
    "arch": ["resnet18", "resnet50", "densenet161", "efficientnet_b0"],
    "weights": ["default", "none", "/data/weights/resnet18-1.0.pth"],
    "freeze": ["backbone", "last-stage", "none"],
    "optimizer": ["adam", "adamw", "sgd"],
    "augment": ["auto", "none", "basic", "randaugment"],
}


def random_space(random: Random) -> Space:
    """One to all of the settings above, in any order, with ranges of every type that fits."""
    names = [*NUMBERS, *WHOLE_NUMBERS, *TEXTS]
    return {name: _range(name, random) for name in random.sample(names, random.randint(1, len(names)))}


def as_content(space: Space, random: Random) -> dict[str, dict[str, Any]]:
    """What a person might write for it: names with hyphens or underscores, the linear scale said or not."""
    return {
        name.replace("_", random.choice("-_")): _content(tried, with_scale=random.random() < 0.5)
        for name, tried in space.items()
    }


def _range(name: str, random: Random) -> Range:
    is_categorical = random.random() < 0.3
    if name in TEXTS:
        return Categorical(tuple(random.sample(TEXTS[name], random.randint(1, len(TEXTS[name])))))
    if name in WHOLE_NUMBERS:
        low, high = WHOLE_NUMBERS[name]
        if is_categorical:
            return Categorical(tuple(random.sample(range(low, high + 1), random.randint(1, 30))))
        first, last = sorted(random.sample(range(low, high + 1), 2))
        return Integer(first, last, _scale(first, random))
    numbers = [_number(*NUMBERS[name], random) for _ in range(30)]
    if is_categorical:
        return Categorical(tuple(dict.fromkeys(numbers[: random.randint(1, 30)])))
    return Continuous(min(numbers), max(numbers), _scale(min(numbers), random))


def _number(low: float, high: float, random: Random) -> float:
    """Of any size, with all of its digits or few."""
    if random.random() < 0.1:
        return low
    drawn = math.exp(random.uniform(math.log(low or 1e-12), math.log(high)))
    return min(high, max(low, random.choice([drawn, float(f"{drawn:.1g}")])))


def _scale(low: float, random: Random) -> Scale:
    return random.choice(["linear", "log"]) if low > 0 else "linear"


def _content(tried: Range, *, with_scale: bool) -> dict[str, Any]:
    if isinstance(tried, Categorical):
        return {"type": "categorical", "values": list(tried.values)}
    kind = "integer" if isinstance(tried, Integer) else "continuous"
    scale = {"scale": tried.scale} if with_scale or tried.scale == "log" else {}
    return {"type": kind, "min": tried.min, "max": tried.max, **scale}


JUNK: Final[tuple[Any, ...]] = (
    *(None, True, -1, 3, 1e308, math.nan, 10**300, "", "x", '"', "Auto", "9" * 300),
    *([], [None], {}, {"a": 1}, {"type": "integer"}),
)


def damaged(content: Any, random: Random) -> Any:
    """The same with something else in some places, and with names missing or misspelt."""
    if random.random() < 0.1:
        return random.choice(JUNK)
    if isinstance(content, dict):
        kept = {key: value for key, value in content.items() if random.random() > 0.05}
        return {"x" if random.random() < 0.05 else key: damaged(value, random) for key, value in kept.items()}
    return [damaged(value, random) for value in content] if isinstance(content, list) else content
