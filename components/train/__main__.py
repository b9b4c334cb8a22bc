"""`python -m components.train`: read the settings, call the one function, set the exit code."""

import gc
import sys

from components import environment
from components.config import read_settings
from components.environment import Environment, stop_signal
from components.train.settings import TrainSettings


def main(arguments: list[str]) -> int:
    """Run the train stage; returns its exit code."""

    def stage(place: Environment) -> None:
        settings = read_settings(
            TrainSettings, arguments, place, prog="train", description="Labelled images in, a bundle out."
        )
        # torch takes seconds to import: help and wrong flags need not wait for it. A signal has to, since in the midst
        # of imports its exception is taken for a missing module's.
        stop_signal.hold()
        gc.disable()  # thousands of objects are made and none dies: looking for dead ones is a tenth of the time
        from components.train import processes
        from components.train.run import train

        gc.freeze()
        gc.enable()
        stop_signal.release()
        if not processes.is_child():
            num_processes = processes.count(settings.processes, place.hosts)
            if num_processes * place.hosts.count > 1:
                raise SystemExit(processes.start(arguments, place, num_processes, settings.peer_timeout_s))
        with processes.connected(settings.peer_timeout_s) as world:
            train(settings, place, world)

    return environment.run(stage)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
