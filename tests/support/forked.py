"""The train stage in a process of its own, forked from one in which torch is loaded already: a start takes a second."""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["components.train.run", "onnxscript"])


def load() -> None:
    """Load torch; else the first start would wait for it."""
    process = _CONTEXT.Process(target=os.getpid)
    process.start()
    process.join()


def start_train(arguments: Sequence[str], log: Path, temporary: Path) -> ForkServerProcess:
    """Start `python -m components.train ARGUMENTS`.

    Args:
        arguments: Its flags.
        log: Where its output goes.
        temporary: Its folder of temporary files.
    """
    process = _CONTEXT.Process(target=_train, args=(list(arguments), log, temporary))
    process.start()
    return process


def _train(arguments: list[str], log: Path, temporary: Path) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = None
    from components.train.__main__ import main

    sys.exit(main(arguments))
