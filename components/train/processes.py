"""More than one process: torchrun on every host, a process for every GPU, connected or told why not.

Source of the layout: sagemaker-training-toolkit starts torchrun the same way from resourceconfig.json (static
rendezvous at the first host, port 7777). Where torchrun has run already (Kubeflow's Trainer, a user), nothing is
started.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import FrameType
from typing import Final

from components.environment import Environment
from components.train.world import World, from_environment
from serving.errors import ConfigError, UserError

logger = logging.getLogger(__name__)

PORT: Final = 7777


def is_child(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun started this process."""
    return "RANK" in environ and "WORLD_SIZE" in environ


def count(asked: int | None) -> int:
    """Processes on this host: as many as asked for, else one for each GPU, else one."""
    if asked is not None:
        return asked
    import torch

    return max(1, torch.cuda.device_count())


def start(arguments: Sequence[str], environment: Environment, num_processes: int, timeout_s: float) -> int:
    """Run this stage again under torchrun and hand its signals on; returns its exit code.

    Raises:
        UserError: The first host's name does not resolve in time.
    """
    hosts = environment.hosts
    if len(hosts) > 1:
        _wait_for_name(hosts[0], timeout_s)
    command = [sys.executable, "-m", "torch.distributed.run", *_layout(environment, num_processes)]
    logger.info("starting %d processes on each of %d hosts", num_processes, len(hosts))
    variables = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1" if num_processes > 1 else "")}
    if environment.network_interface:
        variables |= dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), environment.network_interface)
    child_environment = os.environ | {name: value for name, value in variables.items() if value}
    command += ["-m", "components.train", *arguments]
    process = subprocess.Popen(command, env=child_environment)  # noqa: S603  # this very command line, once more

    def hand_on(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    signal.signal(signal.SIGTERM, hand_on)
    return process.wait()


def connect(timeout_s: float) -> World:
    """Join the other processes of the run; alone, there is nothing to join.

    Raises:
        UserError: A peer did not appear in time.
    """
    world = from_environment()
    if world.size == 1:
        return world
    import torch
    from torch import distributed

    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
        world.wait()
    except (distributed.DistError, RuntimeError) as error:
        raise UserError(
            f"process {world.rank} of {world.size} did not find the others within {timeout_s:g} s: "
            f"look into the logs of the other hosts, whether they started and can be reached ({_first_line(error)})"
        ) from error
    logger.info("process %d of %d is connected (%s)", world.rank, world.size, backend)
    return world


def disconnect(world: World) -> None:
    """Leave the others; without it, torch complains at the end."""
    if world.size > 1:
        from torch import distributed

        distributed.destroy_process_group()


def _layout(environment: Environment, num_processes: int) -> list[str]:
    hosts = environment.hosts
    if len(hosts) == 1:
        return ["--standalone", "--nproc-per-node", str(num_processes)]
    if environment.current_host not in hosts:
        raise ConfigError(f"host {environment.current_host!r} is not one of the job's hosts: {', '.join(hosts)}")
    return [
        *("--nnodes", str(len(hosts)), "--node-rank", str(hosts.index(environment.current_host))),
        *("--nproc-per-node", str(num_processes), "--master-addr", hosts[0], "--master-port", str(PORT)),
    ]


def _wait_for_name(host: str, timeout_s: float) -> None:
    """Names of hosts resolve some time after the hosts start (aws/sagemaker-python-sdk issue 138)."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.getaddrinfo(host, PORT)
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(f"host {host!r} has no address after {timeout_s:g} s: {error}") from error
            time.sleep(0.5)
        else:
            return


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
