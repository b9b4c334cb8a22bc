"""The process that workers are forked from: torch is loaded there once for all of them.

Loading takes seconds, so the search has it begin before it loads torch itself: each has a core then.
"""

import multiprocessing
from multiprocessing import forkserver
from typing import Final

CONTEXT: Final = multiprocessing.get_context("forkserver")
"""For workers' processes and pipes."""
LOADED: Final = ("components.tune.worker", "torch._dynamo")
"""torch's compiler too: its optimizers load it, 3.6 s for the first trial of each worker."""


def prepare() -> None:
    """Start it if it does not run, without waiting for it."""
    CONTEXT.set_forkserver_preload(list(LOADED))
    forkserver.ensure_running()
