"""Where a stage runs and what that place gives it. The only module here that knows `/opt/ml`, hosts and signals.

A stage asks for an `Environment` and uses its folders; whether they come from a laptop, `docker run`, a SageMaker job
or a Kubeflow step, it cannot tell.

Source: SageMaker Developer Guide, "How SageMaker Runs Your Training Image"; file formats as seen in
sagemaker-training-toolkit. Kubeflow's variables: PyTorchJob as set by its training-operator, TrainJob by its trainer.
"""

import errno
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from serving import files
from serving.errors import ConfigError, KennelError, PeerError

logger = logging.getLogger(__name__)

OF_THE_PLACE: Final = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.EIO, errno.ELOOP, errno.ENAMETOOLONG),
}
"""What disks and permissions are to blame for: the sentence of the system says it, and no line of code would."""
MAX_FAILURE_CHARS: Final = 1024  # SageMaker shows this many of the failure file
EXIT_STOPPED: Final = 128 + signal.SIGTERM
SAGEMAKER_PORT: Final = 7777  # sagemaker-training-toolkit's
KUBEFLOW_PORT: Final = 29500
FAILURE_VARIABLE: Final = "KENNEL_FAILURE_FILE"
"""Names the file in which a process leaves its sentence for the one that started it, which says it once for all."""


class Stopped(BaseException):
    """The platform asked the stage to end (SIGTERM); not an error, so nothing that catches errors catches it."""


class StopSignal:
    """SIGTERM, turned into `Stopped` wherever the stage is, except where it asks for a moment.

    Files appear whole or not at all, so most instants are as good as any; while it trains, there is something to save
    first, and between the first and the last weight that a step moves there is nothing whole to save.
    """

    def __init__(self) -> None:
        self.is_pending = False
        self._is_held = False

    def hold(self) -> None:
        """From here on a signal is only noted."""
        self._is_held = True

    def release(self) -> None:
        """Raise `Stopped` if a signal came meanwhile, and from here on at once."""
        self._is_held = False
        if self.is_pending:
            raise Stopped

    def on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        self.is_pending = True
        if not self._is_held:
            raise Stopped


stop_signal = StopSignal()
"""Of this process: signals are, too."""


@dataclass(frozen=True)
class Hosts:
    """The machines of a job, and which of them this is."""

    count: int = 1
    rank: int = 0
    """Of this one, from 0."""
    first: str = "localhost"
    """Name or address of the first: where they meet."""
    port: int = SAGEMAKER_PORT
    """On the first."""
    interface: str = ""
    """Of the network by which they reach each other; empty when nobody says."""
    processes: int | None = None
    """On each; None when nobody says."""


@dataclass(frozen=True)
class Environment:
    """What the place gives: folders by purpose, hyperparameters, hosts."""

    model_dir: Path | None = None
    """Where the bundle belongs; None on a laptop, where the user says."""
    output_dir: Path | None = None
    checkpoint_dir: Path | None = None
    failure_file: Path | None = None
    hyperparameters: Path | None = None
    channels: Mapping[str, Path] = field(default_factory=dict)
    hosts: Hosts = Hosts()


def detect(environ: Mapping[str, str] = os.environ) -> Environment:
    """Look around.

    `SAGEMAKER_BASE_DIR` names another root than /opt/ml, as in SageMaker's own toolkits.

    Raises:
        ConfigError: A configuration file of the platform is not readable JSON, or its hosts contradict each other.
    """
    root = _root(environ)
    config = root / "input" / "config"
    if not config.is_dir():
        return Environment(failure_file=_failure_file(environ), hosts=_kubeflow_hosts(environ))
    data = root / "input" / "data"
    names = set(_read_json(config / "inputdataconfig.json"))
    if data.is_dir():
        names |= {folder.name for folder in data.iterdir() if folder.is_dir()}
    hyperparameters = config / "hyperparameters.json"
    return Environment(
        model_dir=root / "model",
        output_dir=root / "output" / "data",
        checkpoint_dir=Path(_read_json(config / "checkpointconfig.json").get("LocalPath") or root / "checkpoints"),
        failure_file=_failure_file(environ),
        hyperparameters=hyperparameters if hyperparameters.exists() else None,
        channels={name: data / name for name in sorted(names)},
        hosts=_sagemaker_hosts(_read_json(config / "resourceconfig.json")),
    )


def run(stage: Callable[[Environment], None]) -> int:
    """Run a stage's one function and turn its end into an exit code, a sentence and, on SageMaker, a failure file.

    Returns:
        0; 1 after an error; 143 after SIGTERM, 130 after Ctrl-C.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stdout, force=True)
    for package in ("components", "serving"):  # what libraries say of themselves is not for users
        logging.getLogger(package).setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, stop_signal.on_signal)
    # Read when torch is loaded. Threads that spin at a barrier cost everything as soon as another process wants a core:
    # beside busy neighbours a step of ResNet-18 took thirteen times as long without this.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment = Environment(failure_file=_failure_file(os.environ))
    try:
        environment = detect()
        stage(environment)
    except KennelError as error:
        return _fail(environment, str(error), is_cause=not isinstance(error, PeerError))
    except Stopped:
        logger.info("stopped by SIGTERM: the same command goes on from the last checkpoint, if there is one")
        return EXIT_STOPPED
    except KeyboardInterrupt:
        logger.info("stopped by Ctrl-C: the same command goes on from the last checkpoint, if there is one")
        return 128 + signal.SIGINT
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OF_THE_PLACE:
            return _fail(environment, f"{error.filename or 'the disk'}: {error.strerror}")
        traceback.print_exc()
        return _fail(environment, f"internal error, please report it with the log: {type(error).__name__}: {error}")
    return 0


def _root(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def _sagemaker_hosts(resources: Mapping[str, Any]) -> Hosts:
    names = tuple(resources.get("hosts", ("localhost",)))
    current = resources.get("current_host", names[0])
    if current not in names:
        raise ConfigError(f"host {current!r} is not one of the job's hosts: {', '.join(names)}")
    return Hosts(len(names), names.index(current), names[0], interface=resources.get("network_interface_name", ""))


def _kubeflow_hosts(environ: Mapping[str, str]) -> Hosts:
    """What PyTorchJob and TrainJob say in PET_*, and older PyTorchJobs, of the first host, in MASTER_* alone."""
    if "PET_NNODES" not in environ:
        return Hosts()
    asked = environ.get("PET_NPROC_PER_NODE", "auto")
    processes = None if asked in {"auto", "gpu", "cpu"} else _whole(environ, "PET_NPROC_PER_NODE", at_least=1)
    count = _whole(environ, "PET_NNODES", at_least=1)
    if count == 1:
        return Hosts(processes=processes)
    rank = _whole(environ, "PET_NODE_RANK")
    if rank >= count:
        raise ConfigError(f"PET_NODE_RANK is {rank}, expected less than the {count} of PET_NNODES: nodes count from 0")
    first = environ.get("PET_MASTER_ADDR") or environ.get("MASTER_ADDR")
    if not first:
        raise ConfigError(f"PET_NNODES is {count} and PET_MASTER_ADDR is missing: name the node of PET_NODE_RANK 0")
    name = next((name for name in ("PET_MASTER_PORT", "MASTER_PORT") if name in environ), None)
    port = KUBEFLOW_PORT if name is None else _whole(environ, name, at_least=1)
    return Hosts(count, rank, first, port, processes=processes)


def _whole(environ: Mapping[str, str], name: str, *, at_least: int = 0) -> int:
    text = environ.get(name)
    if text is None:
        raise ConfigError(f"environment variable {name} is missing, expected a whole number from {at_least}")
    if not (text.isascii() and text.isdecimal()) or int(text) < at_least:
        elastic = "; jobs that grow and shrink (elasticPolicy) are not supported" if ":" in text else ""
        raise ConfigError(f"environment variable {name} is {text!r}, expected a whole number from {at_least}{elastic}")
    return int(text)


def _failure_file(environ: Mapping[str, str]) -> Path | None:
    if environ.get(FAILURE_VARIABLE):
        return Path(environ[FAILURE_VARIABLE])
    return _root(environ) / "output" / "failure" if (_root(environ) / "input" / "config").is_dir() else None


def _fail(environment: Environment, message: str, *, is_cause: bool = True) -> int:
    """Say why; a consequence of another process's end does not take the place of what that one said."""
    if FAILURE_VARIABLE not in os.environ:
        print(f"error: {message}", file=sys.stderr, flush=True)  # noqa: T201  # also when logging is not what failed
    path = environment.failure_file
    if path is not None and (is_cause or not path.exists()):
        try:
            files.write_text(path, message[:MAX_FAILURE_CHARS])
        except OSError as error:
            logger.warning("cannot write %s: %s", path, error)
    return 1


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(path)!r} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{str(path)!r} holds a {type(content).__name__}, expected an object")
    return content
