"""A stage in a process of its own, forked from one in which torch is loaded already: a start takes a second."""

import importlib
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["components.train.run", "components.tune.run", "onnxscript"])


def load() -> None:
    """Load torch; else the first start would wait for it."""
    process = _CONTEXT.Process(target=os.getpid)
    process.start()
    process.join()


def start_train(arguments: Sequence[str], log: Path, temporary: Path) -> ForkServerProcess:
    """Start `python -m components.train ARGUMENTS`; see `start`."""
    return start("train", arguments, log, temporary)


def start(stage: str, arguments: Sequence[str], log: Path, temporary: Path) -> ForkServerProcess:
    """Start `python -m components.STAGE ARGUMENTS`.

    Args:
        stage: Of those that are preloaded: train, tune.
        arguments: Its flags.
        log: Where its output goes.
        temporary: Its folder of temporary files.
    """
    process = _CONTEXT.Process(target=_run, args=(stage, list(arguments), log, temporary))
    process.start()
    return process


def _run(stage: str, arguments: list[str], log: Path, temporary: Path) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = None
    sys.exit(importlib.import_module(f"components.{stage}.__main__").main(arguments))
