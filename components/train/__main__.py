"""`python -m components.train`: read the settings, call the one function, set the exit code."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
        with _loading():
            from components.train import processes
        if not processes.is_child():
            num_processes = processes.count(settings.processes, place.hosts)
            if num_processes * place.hosts.count > 1:
                raise SystemExit(processes.start(arguments, place, num_processes, settings.peer_timeout_s))
        with _loading():
            from components.train.run import train
        with processes.connected(settings.peer_timeout_s) as world:
            train(settings, place, world)

    return environment.run(stage)


@contextmanager
def _loading() -> Iterator[None]:
    """Imports of torch, which takes seconds: help and wrong flags need not wait for it, and a signal has to.

    In the midst of imports its exception would be taken for a missing module's.
    """
    stop_signal.hold()
    gc.disable()  # thousands of objects are made and none dies: looking for dead ones is a tenth of the time
    yield
    gc.freeze()
    gc.enable()
    stop_signal.release()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
