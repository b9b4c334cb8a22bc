"""`python -m components.tune`: read the settings, call the one function, set the exit code."""

import gc
import sys

from components import environment
from components.config import read_settings
from components.environment import Environment, stop_signal
from components.tune import nursery
from components.tune.settings import TuneSettings


def main(arguments: list[str]) -> int:
    """Run the tune stage; returns its exit code."""

    def stage(place: Environment) -> None:
        settings = read_settings(
            TuneSettings,
            arguments,
            place,
            prog="tune",
            description="Labelled images and a search space in, the best hyperparameters out.",
        )
        # As in train: help and wrong flags need not wait for torch, a signal has to.
        stop_signal.hold()
        nursery.prepare()
        gc.disable()
        from components.tune.run import tune

        gc.freeze()
        gc.enable()
        stop_signal.release()
        tune(settings, place)

    return environment.run(stage)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
