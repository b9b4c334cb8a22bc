"""Runs the application on uvicorn: the port is bound first, and a stop answers everything that was received."""

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Final

import uvicorn
from fastapi import FastAPI

from serving.errors import BundleError, KennelError, OutOfMemory
from serving.protocol import Protocol

logger = logging.getLogger(__name__)

GRACE_S: Final = 25  # for requests under way; SageMaker kills 30 s after SIGTERM
LINGER_S: Final = 0.1
KEEP_ALIVE_S: Final = 75  # longer than the 60 s of load balancers, else one writes to a connection just closed


class Server(uvicorn.Server):
    """One process, one event loop, one application.

    Args:
        app: What answers.
        on_hangup: What SIGHUP starts; its errors are told by whoever raises them.
        is_due: Set where a SIGHUP came before there was a server to hear it.
    """

    def __init__(
        self,
        app: FastAPI,
        on_hangup: Callable[[], Awaitable[object]] | None = None,
        is_due: threading.Event | None = None,
    ) -> None:
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        super().__init__(config)
        self._on_hangup = on_hangup
        self._is_due = is_due
        self._running: set[asyncio.Future[object]] = set()  # a task that nobody holds may vanish

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and to hear SIGHUP."""
        await super().startup(sockets)
        if self._on_hangup and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
            if self._is_due and self._is_due.is_set():
                self._hang_up()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop taking requests, then answer those taken."""
        # What lies in the kernel's buffers has arrived as far as its sender can tell: read it before closing.
        await asyncio.sleep(LINGER_S)
        await super().shutdown(sockets)

    def _hang_up(self) -> None:
        if self._on_hangup:
            task = asyncio.ensure_future(self._on_hangup())
            self._running.add(task)
            task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Future[object]") -> None:
        self._running.discard(task)
        if task.cancelled() or not (error := task.exception()):
            return
        if not isinstance(error, OutOfMemory | BundleError):  # these have their line already
            logger.error("SIGHUP: %s", error, exc_info=None if isinstance(error, KennelError) else error)


def run(
    app: FastAPI, listeners: list[socket.socket], on_hangup: Callable[[], Awaitable[object]], is_due: threading.Event
) -> None:
    """Serve until SIGTERM or SIGINT, then return once what was received is answered, or after `GRACE_S`."""
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # its warnings are about what callers send
    server = Server(app, on_hangup, is_due)
    # uvicorn puts back these handlers when it ends and raises the signal again; with its own, that does nothing.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    server.run(sockets=listeners)
    logger.info("stopped")
