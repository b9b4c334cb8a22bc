"""What `tune` can be told: all that `train` can, and what a search is. Importable without torch and Optuna."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from components import presets
from components.train.settings import TrainSettings
from components.tune.objective import Objective, read_objectives
from components.tune.space import Space, Value, check, parse, read, read_text
from serving.errors import ConfigError
from serving.flags import setting

DEFAULT_TRIALS: Final = 20


class TuneSettings(TrainSettings):
    """Settings of the tune stage; those of train are what trials have in common."""

    space: str | None = setting(
        None, help="file of the search space, or its text in JSON; default: the preset's, with --preset"
    )
    trials: int | None = setting(
        None,
        help="trials in all, those of a killed search counted; default: the preset's, else all of a grid, "
        f"else {DEFAULT_TRIALS}",
        ge=1,
    )
    objective: str = setting(
        "valid_loss",
        help="what is made small or large: valid_loss, valid_accuracy, test_loss, test_accuracy, latency_ms, or "
        "several with commas between",
    )
    sampler: Literal["tpe", "random", "grid"] = setting(
        "tpe", help="how settings are chosen: by what the trials before found (tpe), at random, or each once"
    )
    sampler_seed: int = setting(0, help="of what the sampler draws", ge=0, le=2**32 - 1)
    pruner: Literal["auto", "asha", "median", "none"] = setting(
        "auto",
        help="what ends hopeless trials early: successive halving (asha), being worse than the median, or nothing; "
        "auto: asha, and nothing where the backbone is frozen and epochs cost next to nothing",
    )
    parallel_trials: int | None = setting(
        None, help="trials at once, a process each; default: one for each GPU, else one for each CPU", ge=1
    )
    search_time_limit: float | None = setting(
        None, help="start no trial after so long; counts from each start", unit="s", gt=0
    )
    search_patience: int | None = setting(
        None, help="stop after so many trials without a better one", unit="trials", ge=1
    )
    storage: str | None = setting(
        None,
        help="URL of a database for the study, such as postgresql://USER@HOST/NAME, by which several machines share "
        "one search; default: a file in CHECKPOINT_DIR",
    )
    keep_best: bool = setting(False, help="also write the best trial's bundle to MODEL_DIR, as train would")

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What the search makes small or large; the first decides where one has to.

        Raises:
            ConfigError: train measures no such thing.
        """
        return read_objectives(self.objective)

    def of_trial(self, parameters: Mapping[str, Value]) -> TrainSettings:
        """Settings of a training with these hyperparameters in place of the common ones."""
        common = self.model_dump(include=set(TrainSettings.model_fields))
        return TrainSettings.model_validate({**common, **parameters})


def search_space(settings: TuneSettings) -> Space:
    """The space that was asked for, checked against train.

    Raises:
        ConfigError: There is none, or it is not one that train can be searched in.
    """
    if settings.space is None and settings.preset is None:
        raise ConfigError("--space is missing, expected a file of the search space, or a --preset that has one")
    if settings.space is None:
        source = f"preset {settings.preset}"
        space = parse(presets.read(str(settings.preset)).space, source)
    elif settings.space.lstrip().startswith("{"):
        source = "--space"
        space = read_text(settings.space, source)
    else:
        source = f"search space {settings.space}"
        space = read(Path(settings.space))
    check(space, settings.of_trial({}), source)
    return space
