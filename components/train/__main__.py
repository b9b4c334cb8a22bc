"""`python -m components.train`: read the settings, call the one function, set the exit code."""

import sys

from components import environment
from components.config import read_settings
from components.environment import Environment
from components.train.settings import TrainSettings


def main(arguments: list[str]) -> int:
    """Run the train stage; returns its exit code."""

    def stage(place: Environment) -> None:
        settings = read_settings(
            TrainSettings, arguments, place, prog="train", description="Labelled images in, a bundle out."
        )
        # torch takes seconds to import: help and wrong flags need not wait for it.
        from components.train import processes
        from components.train.run import train

        num_processes = 1 if processes.is_child() else processes.count(settings.processes)
        if num_processes * len(place.hosts) > 1 and not processes.is_child():
            code = processes.start(arguments, place, num_processes, settings.peer_timeout_s)
            raise SystemExit(code)
        world = processes.connect(settings.peer_timeout_s)
        try:
            train(settings, place, world)
        finally:
            processes.disconnect(world)

    return environment.run(stage)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
