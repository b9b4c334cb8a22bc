"""Processes forked from one in which torch is loaded already: a stage or a server starts in a second or less."""

import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *(
            "components.train.run",
            "torch._dynamo",
            "torch.export._trace",
            "onnxscript",
        ),  # torch's optimizers need these
        *("serving.__main__", "serving.app", "serving.models", "serving.server"),
    ]
)


def load() -> None:
    """Load torch; else the first start would wait for it."""
    process = start(os.getpid)
    process.join()


@dataclass(frozen=True)
class Done:
    """How a process ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


def start(
    target: Callable[..., object],
    *arguments: Any,
    environ: Mapping[str, str] | None = None,
    out: Path | None = None,
    error: Path | None = None,
) -> "Process":
    """Call `target` in a process of its own.

    Args:
        target: What is called; it has a name in a module.
        arguments: With what; they are sent to the process.
        environ: Its environment; by default this process's own.
        out: Where its output goes; by default to this process's.
        error: Where what it says on standard error goes; by default to `out`.
    """
    variables = dict(os.environ if environ is None else environ)
    process = _CONTEXT.Process(target=_call, args=(target, arguments, variables, out, error or out))
    process.start()
    return Process(process)


def run(target: Callable[..., object], *arguments: Any, environ: Mapping[str, str] | None = None) -> Done:
    """Call `target` in a process of its own and wait for its end; arguments as for `start`."""
    with tempfile.TemporaryDirectory() as folder:
        out, error = Path(folder) / "out", Path(folder) / "error"
        code = start(target, *arguments, environ=environ, out=out, error=error).wait()
        return Done(code, out.read_text(), error.read_text())


def main(module: str, arguments: Sequence[str]) -> None:
    """What `python -m MODULE ARGUMENTS` does, where the module's `__main__` has a `main` that returns the exit code."""
    sys.argv = [module, *arguments]
    sys.exit(importlib.import_module(f"{module}.__main__").main(list(arguments)))


class Process:
    """A process with the methods of `subprocess.Popen`."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for the signal that ended it; None while it runs."""
        return self._process.exitcode

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until it ends, or so long."""
        self._process.join(timeout_s)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends; its exit code."""
        self._process.join(timeout)
        code = self._process.exitcode
        assert code is not None, f"process {self.pid} runs after {timeout} s"
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self._process.is_alive():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _call(
    target: Callable[..., object],
    arguments: tuple[Any, ...],
    environ: dict[str, str],
    out: Path | None,
    error: Path | None,
) -> None:
    for path, stream in ((out, sys.stdout), (error, sys.stderr)):
        if path is not None:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, stream.fileno())
            os.close(file)
    os.environ.clear()
    os.environ.update(environ)
    tempfile.tempdir = None  # it may be another one there
    target(*arguments)
