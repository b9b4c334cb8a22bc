"""Where a stage runs and what that place gives it. The only module here that knows `/opt/ml`, hosts and signals.

A stage asks for an `Environment` and uses its folders; whether they come from a laptop, `docker run`, a SageMaker job
or a Kubeflow step, it cannot tell.

Source: SageMaker Developer Guide, "How SageMaker Runs Your Training Image"; file formats as seen in
sagemaker-training-toolkit.
"""

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
from serving.errors import ConfigError, KennelError

logger = logging.getLogger(__name__)

MAX_FAILURE_CHARS: Final = 1024  # SageMaker shows this many of the failure file
EXIT_STOPPED: Final = 128 + signal.SIGTERM


class Stopped(BaseException):
    """The platform asked the stage to end (SIGTERM); not an error, so nothing that catches errors catches it."""


class StopSignal:
    """SIGTERM, turned into `Stopped` wherever the stage is, except where it asks for a moment.

    Files appear whole or not at all, so most instants are as good as any; between the first and the last weight that a
    step moves, there is nothing whole to save.
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
class Environment:
    """What the place gives: folders by purpose, hyperparameters, hosts."""

    model_dir: Path | None = None
    """Where the bundle belongs; None on a laptop, where the user says."""
    output_dir: Path | None = None
    checkpoint_dir: Path | None = None
    failure_file: Path | None = None
    hyperparameters: Path | None = None
    channels: Mapping[str, Path] = field(default_factory=dict)
    hosts: tuple[str, ...] = ("localhost",)
    current_host: str = "localhost"
    network_interface: str = ""
    """By which hosts reach each other; empty when nobody says."""


def detect(environ: Mapping[str, str] = os.environ) -> Environment:
    """Look around.

    `SAGEMAKER_BASE_DIR` names another root than /opt/ml, as in SageMaker's own toolkits.

    Raises:
        ConfigError: A configuration file of the platform is not readable JSON.
    """
    root = _root(environ)
    config = root / "input" / "config"
    if not config.is_dir():
        return Environment()
    data = root / "input" / "data"
    names = set(_read_json(config / "inputdataconfig.json"))
    if data.is_dir():
        names |= {folder.name for folder in data.iterdir() if folder.is_dir()}
    resources = _read_json(config / "resourceconfig.json")
    hosts = tuple(resources.get("hosts", ("localhost",)))
    hyperparameters = config / "hyperparameters.json"
    return Environment(
        model_dir=root / "model",
        output_dir=root / "output" / "data",
        checkpoint_dir=Path(_read_json(config / "checkpointconfig.json").get("LocalPath") or root / "checkpoints"),
        failure_file=_failure_file(environ),
        hyperparameters=hyperparameters if hyperparameters.exists() else None,
        channels={name: data / name for name in sorted(names)},
        hosts=hosts,
        current_host=resources.get("current_host", hosts[0]),
        network_interface=resources.get("network_interface_name", ""),
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
        return _fail(environment, str(error))
    except Stopped:
        logger.warning("stopped by SIGTERM: the same command goes on from the last checkpoint, if there is one")
        return EXIT_STOPPED
    except KeyboardInterrupt:
        logger.warning("stopped by Ctrl-C: the same command goes on from the last checkpoint, if there is one")
        return 128 + signal.SIGINT
    except Exception as error:
        traceback.print_exc()
        return _fail(environment, f"internal error, please report it with the log: {type(error).__name__}: {error}")
    return 0


def _root(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def _failure_file(environ: Mapping[str, str]) -> Path | None:
    return _root(environ) / "output" / "failure" if (_root(environ) / "input" / "config").is_dir() else None


def _fail(environment: Environment, message: str) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)  # noqa: T201  # also when logging is not what failed
    if environment.failure_file is not None:
        try:
            files.write_text(environment.failure_file, message[:MAX_FAILURE_CHARS])
        except OSError as error:
            logger.warning("cannot write %s: %s", environment.failure_file, error)
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
