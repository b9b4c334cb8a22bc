"""What a search makes small or large."""

from dataclasses import dataclass
from typing import Final, Literal

from serving.errors import ConfigError
from serving.flags import nearest

Direction = Literal["minimize", "maximize"]

LATENCY: Final = "latency_ms"
"""Of one picture, by the engine that serves; the same after every epoch."""
DIRECTIONS: Final[dict[str, Direction]] = {
    "valid_loss": "minimize",
    "valid_accuracy": "maximize",
    "test_loss": "minimize",
    "test_accuracy": "maximize",
    LATENCY: "minimize",
}
"""All are of the weights that are kept, those of the epoch with the lowest valid_loss, as train keeps them."""


@dataclass(frozen=True)
class Objective:
    """A metric of a trial and which way is better."""

    metric: str
    direction: Direction

    @property
    def is_of_test(self) -> bool:
        """Whether it is measured on the test split, which then says nothing about new images any more."""
        return self.metric.startswith("test_")

    def is_better(self, value: float, than: float) -> bool:
        """Whether the first value is the better one."""
        return value < than if self.direction == "minimize" else value > than


def read_objectives(text: str) -> tuple[Objective, ...]:
    """Objectives by name, commas between.

    Raises:
        ConfigError: train logs no such metric, or one is named twice.
    """
    names = [name.strip().replace("-", "_") for name in text.split(",")]
    for name in names:
        if name not in DIRECTIONS:
            raise ConfigError(
                f'--objective got "{name}", expected one of {", ".join(DIRECTIONS)}, or several with commas between'
                f"{nearest(name, list(DIRECTIONS))}"
            )
        if names.count(name) > 1:
            raise ConfigError(f"--objective names {name} twice")
    return tuple(Objective(name, DIRECTIONS[name]) for name in names)
