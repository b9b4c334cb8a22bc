"""torchrun with one voice: `python -m components.train.torchrun PROCESSES TIMEOUT_S ARGUMENTS` runs the stage in many.

Of several processes that fail, the cause is said once, in a sentence; torchrun's own account of it, a table below a
traceback, helps nobody. In a process of its own, since until torchrun has found the other hosts it hears no signal.

Source of the layout: sagemaker-training-toolkit starts torchrun the same way (static rendezvous at the first host).
"""

import logging
import math
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from components import environment
from components.environment import EXIT_STOPPED, FAILURE_VARIABLE, Environment, Hosts
from serving.errors import InternalError, PeerError, UserError

GRACE_S: Final = 110
"""For a checkpoint after SIGTERM: SageMaker kills 120 s after it."""


def main(arguments: Sequence[str]) -> int:
    """Run the processes of this host; returns the exit code."""
    num_processes, timeout_s, rest = int(arguments[0]), float(arguments[1]), arguments[2:]

    def stage(place: Environment) -> None:
        # Until torchrun listens to signals there is nothing to save, and torch waits for hosts deaf to Python's.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        layout = _layout(place.hosts, num_processes, timeout_s)
        with tempfile.TemporaryDirectory(prefix="kennel-") as folder:
            command = [*layout, "--log-dir", folder, "-m", "components.train", *rest]
            code = _run(command, place.hosts, timeout_s, Path(folder) / "failure")
        raise SystemExit(code)

    return environment.run(stage)


def _run(command: list[str], hosts: Hosts, timeout_s: float, failure_file: Path) -> int:
    from torch.distributed import DistError
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ[FAILURE_VARIABLE] = str(failure_file)
    logging.disable()
    try:
        torchrun.run(torchrun.parse_args(command))  # type: ignore[no-untyped-call]
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        return _outcome({rank: failure.exitcode for rank, failure in error.failures.items()}, failure_file)
    except DistError as error:
        raise PeerError(
            f"host {hosts.rank} of {hosts.count} did not find the others within {timeout_s:g} s: look into their logs, "
            f"whether they started, and can reach {hosts.first}:{hosts.port} ({str(error).splitlines()[0]})"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
        del os.environ[FAILURE_VARIABLE]
    return 0


def _outcome(codes: Mapping[int, int], failure_file: Path) -> int:
    """The exit code to end with, when processes (rank: exit code) did not end with 0.

    Raises:
        KennelError: What the process that was the cause left in `failure_file`, or had no time to say.
    """
    for rank, code in codes.items():
        if code < 0 and -code not in {signal.SIGTERM, signal.SIGINT}:
            hint = ": memory may have run out" if -code == signal.SIGKILL else ""
            raise InternalError(f"process {rank} was killed by {signal.Signals(-code).name}{hint}")
    stopped = next((code for code in codes.values() if code in {EXIT_STOPPED, 128 + signal.SIGINT}), None)
    if stopped is not None:
        return stopped
    if failure_file.exists():
        raise UserError(failure_file.read_text())
    return next((128 - code if code < 0 else code for code in codes.values()), 1)


def _layout(hosts: Hosts, num_processes: int, timeout_s: float) -> list[str]:
    """torchrun's own flags."""
    common = ["--nproc-per-node", str(num_processes), "--shutdown-timeout", str(GRACE_S)]
    if hosts.count == 1:
        return ["--standalone", "--nnodes", "1", *common]
    return [
        *("--nnodes", str(hosts.count), "--node-rank", str(hosts.rank), *common),
        *("--master-addr", hosts.first, "--master-port", str(hosts.port)),
        *("--rdzv-backend", "static", "--rdzv-conf", f"timeout={math.ceil(timeout_s)}"),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
