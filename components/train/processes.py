"""More than one process: torchrun on every host, a process for every GPU, connected or told why not.

SageMaker and Kubeflow start one container on each host; what they say of the hosts is in `Environment`, and torchrun
is started here. Where a user has run torchrun already, nothing is started.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Final

from components.environment import Environment, Hosts
from components.train.world import World, from_environment
from serving.errors import ConfigError, PeerError, UserError

logger = logging.getLogger(__name__)

SILENCE_S: Final = 2 * 3600.0
"""So long a process may keep the others waiting: one decodes while another has all in its cache. Its death is noticed
at once, so this ends only what neither works nor dies."""


def is_child(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of the run's already.

    torchrun says so with `LOCAL_RANK`. Who starts processes himself gives `RANK` and `WORLD_SIZE`; a PyTorchJob gives
    these too, and means its hosts: there `PET_NNODES` stands beside them.
    """
    return "LOCAL_RANK" in environ or ("RANK" in environ and "WORLD_SIZE" in environ and "PET_NNODES" not in environ)


def count(asked: int | None, hosts: Hosts) -> int:
    """Processes on this host: as many as asked for, else as the platform says, else one for each GPU, else one.

    Raises:
        ConfigError: There are GPUs, and fewer.
    """
    import torch

    num_gpus = torch.cuda.device_count()
    number = asked or hosts.processes or max(1, num_gpus)
    if 0 < num_gpus < number:
        raise ConfigError(f"{number} processes are asked for and this host has {num_gpus} GPUs: each needs its own")
    return number


def start(arguments: Sequence[str], environment: Environment, num_processes: int, timeout_s: float) -> int:
    """Run this stage again under torchrun and hand its signals on; returns its exit code.

    Raises:
        UserError: The first host's name does not resolve in time.
    """
    hosts = environment.hosts
    if environment.failure_file is not None:  # of an earlier attempt: what is said now is not its consequence
        environment.failure_file.unlink(missing_ok=True)
    if hosts.count > 1:
        logger.info(
            "host %d of %d, %d processes on each; %s is first", hosts.rank, hosts.count, num_processes, hosts.first
        )
        _wait_for_name(hosts, timeout_s)
    command = [sys.executable, "-m", "components.train.torchrun", str(num_processes), str(timeout_s), *arguments]
    # A session of its own: Ctrl-C reaches it once, from here, and not from the terminal as well.
    process = subprocess.Popen(command, env=os.environ | _variables(hosts), start_new_session=True)  # noqa: S603  # us

    def hand_on(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    signal.signal(signal.SIGTERM, hand_on)
    signal.signal(signal.SIGINT, hand_on)
    code = process.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def connected(timeout_s: float) -> Iterator[World]:
    """Join the other processes of the run for as long as the block runs; alone, there is nothing to join.

    After an error the connection is left to the end of the process: what the others notice then comes after what this
    one had to say.

    Raises:
        PeerError: A peer did not appear in time, or went away.
        ConfigError: Nobody says where the first process is.
    """
    world = from_environment()
    if world.size == 1:
        yield world
        return
    _connect(world, timeout_s)
    from torch import distributed

    try:
        yield world
    except RuntimeError as error:
        if not _is_of_peers(error):
            raise
        raise PeerError(
            f"process {world.rank} of {world.size} lost the others: look into their logs for the cause "
            f"({_first_line(error)})"
        ) from error
    distributed.destroy_process_group()


def _connect(world: World, timeout_s: float) -> None:
    import torch
    from torch import distributed

    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise ConfigError(f"RANK and WORLD_SIZE are set and {name} is missing: where is the process of rank 0?")
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
        world.wait()
    except RuntimeError as error:
        raise PeerError(
            f"process {world.rank} of {world.size} did not find the others within {timeout_s:g} s: "
            f"look into the logs of the other hosts, whether they started and can be reached ({_first_line(error)})"
        ) from error
    distributed.set_timeout(timedelta(seconds=SILENCE_S))
    if world.is_host_leader:
        writes = "and writes" if world.is_leader else "process 0 speaks and writes"
        logger.info("process %d of %d is connected (%s), %s", world.rank, world.size, backend, writes)


def _variables(hosts: Hosts) -> dict[str, str]:
    """What torch reads from the environment, where the user has not said otherwise."""
    # train sets the number of threads itself; what torch's C++ says of a lost peer, traceback and all, is said here.
    defaults = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "FATAL"}
    if hosts.interface:  # the host's own name may not be the one that the others know
        defaults |= dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), hosts.interface)
    return {name: value for name, value in defaults.items() if name not in os.environ}


def _wait_for_name(hosts: Hosts, timeout_s: float) -> None:
    """Names of hosts resolve some time after the hosts start (aws/sagemaker-python-sdk issue 138)."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.getaddrinfo(hosts.first, hosts.port)
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(f"host {hosts.first!r} has no address after {timeout_s:g} s: {error}") from error
            time.sleep(0.5)
        else:
            return


def _is_of_peers(error: RuntimeError) -> bool:
    """Whether a collective failed; gloo raises plain errors and names its file in them."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
